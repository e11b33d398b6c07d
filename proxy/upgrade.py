"""Upgrade: the steps by which a parent, its front and its relays become newly installed code.

1. TRIAL: a child of the installed code imports everything and reads our state.
2. The parent execs itself. FRONT: a new front is started, the old one still serves.
3. LEAVE: the new one is ready; the old one finishes what it has in hand, and ends.
4. RELAYS: new ones take the places of the old ones, which end after their last connection.

What fails ends the upgrade, and the processes that served go on to serve. Each step has a
deadline. Standard library only.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Mapping
from enum import StrEnum
from typing import Any

from proxy import succession
from proxy.child import Child, Role
from proxy.household import Household
from proxy.notify import say
from proxy.upgrade_report import Report, State

STEP_S = 60.0


class Step(StrEnum):
    """Where an upgrade is."""

    TRIAL = "trial"
    FRONT = "front"
    LEAVE = "leave"
    RELAYS = "relays"


class Upgrade:
    """Drives one upgrade after the other; `step` is None where none is under way.

    Args:
        house: the parent's.
        report: for whoever asked.
        start: starts a child's process; where that fails, its death is told.
    """

    def __init__(self, house: Household, report: Report, start: Callable[[Child], None]) -> None:
        self.step: Step | None = None
        self.due_at = float("inf")
        self._house = house
        self._report = report
        self._start = start

    def begin(self, *, stopping: bool = False) -> None:
        """Try the installed code."""
        if self.step is not None:
            return
        self._report.begun()
        self._go_to(Step.TRIAL)
        if stopping or not self._house.front.ready:
            self.fail("the proxy stops" if stopping else "there is no front that serves")
            return
        say("upgrading", level="info", pid=os.getpid())
        self._house.trial = trial = Child(Role.TRIAL, succession.trial_command())
        self._start(trial)
        if trial.pid:
            fd = succession.write_state(self._house.state())
            trial.post({"act": "try"}, fd)
            os.close(fd)

    def tried(self, code: int, hear_signals: Callable[[], None]) -> None:
        """The trial has ended: exec, which does not return.

        Args:
            hear_signals: obeys the signals that came until now.
        """
        self._house.trial = None
        if self.step is not Step.TRIAL:
            return
        if code:
            self.fail(f"the installed code cannot start (its trial ended with code {code})")
            return
        mask = signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
        try:
            hear_signals()  # those that come from now on are the successor's
            if self.step is Step.TRIAL:  # and no stop came
                state = {"mask": sorted(mask), "report": self._report.fd, **self._house.state()}
                succession.exec_anew(state, [self._report.fd, *self._house.descriptors()])
        except OSError as error:
            self.fail(f"the program cannot be executed: {error}")
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)

    def go_on(self, state: Mapping[str, Any]) -> None:
        """After the exec, when the handlers stand: start the new front."""
        self._go_to(Step.FRONT)
        signal.pthread_sigmask(signal.SIG_SETMASK, state["mask"])
        self._house.next = Child(Role.FRONT, self._house.front_command)
        self._start(self._house.next)

    def front_is_ready(self, front: Child) -> None:
        """It has said so."""
        if self.step is not Step.FRONT:  # it took the place of one that had died
            self._house.listening.keep_only(front.listens)
        elif front is self._house.next:
            self._go_to(Step.LEAVE)
            self._house.promote()
        elif self._house.next is None:  # the old one died meanwhile, and this one took its place
            self._replace_relays()

    def front_has_left(self) -> None:
        """The old front has ended."""
        if self.step is Step.LEAVE:
            self._replace_relays()

    def next_has_died(self, code: int) -> None:
        """The new front ended before it was ready."""
        self._house.next = None
        self._house.listening.keep_only(self._house.front.listens)
        self.fail(f"the new front ended with code {code} before it was ready")

    def relay_is_ready(self) -> None:
        """One of the relays has told the front all of its rows."""
        if self.step is Step.RELAYS and all(relay.ready for relay in self._house.relays):
            self._end(State.DONE)
            say("upgraded", level="info", pid=os.getpid(), front=self._house.front.pid)

    def keep_time(self, now: float) -> None:
        """End a step that takes too long."""
        if self.due_at > now:
            return
        if self.step is Step.LEAVE:
            late = [child for child in self._house.leaving if child.role is Role.FRONT]
            self._go_to(Step.LEAVE)  # their end leads on
        else:
            late = [child for child in (self._house.trial, self._house.next) if child is not None]
            self.fail(f"this step took more than {STEP_S:.0f} s")
        for child in late:
            child.kill(signal.SIGKILL)

    def fail(self, why: str) -> None:
        """Give the upgrade up, if one is under way."""
        if self.step is not None:
            say("upgrade_failed", level="error", step=self.step, detail=why)
            self._end(State.FAILED, f"{why}; see the log")

    def _replace_relays(self) -> None:
        self._house.listening.keep_only(self._house.front.listens)
        self._house.replace_relays()
        self._go_to(Step.RELAYS)

    def _go_to(self, step: Step) -> None:
        self.step, self.due_at = step, time.monotonic() + STEP_S

    def _end(self, state: State, detail: str = "") -> None:
        self.step, self.due_at = None, float("inf")
        self._report.ended(state, detail)
