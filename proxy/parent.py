"""The parent: `rdp-proxy run`. It makes listening sockets and processes, and outlives them all.

It knows no configuration and serves no client, so it has little to crash with; standard library
only. It starts the front and, when the front asks for them, relays, as fresh interpreters; it
starts again what dies, after a pause that grows while it keeps dying; a front that dies before any
was ready ends the parent with the same code, for then the fault is the operator's to see.

Control channels carry JSON objects with `act`:

    front -> parent   alive · ready · relay_ready(pid) · configuration (+ memory file); and with a
                      `number`, which the answer repeats: listen(host, port) · unlisten(host, port)
                      · relays(count)
    parent -> front   greeting(anew, + memory file of the last front) · retire
                      relay(index, pid, retired, + channel)
                      answers: `errno` and `error`, or a listening socket, or nothing more
    parent -> relay   front (+ channel) · stop

Acts that one side does not know it passes over, because children of the version before may live.
For each front every relay gets a new channel, one end to each. A listening socket that is asked for
again is the same one, with the clients that wait in its queue. When the parent is gone, the front
ends at once and relays carry on to their last connection.

Signals: SIGTERM and SIGINT stop (the front gets SIGTERM; a second one ends everything within a
second), SIGHUP is passed on, SIGUSR2 upgrades (`proxy/upgrade.py`). As PID 1 it also reaps orphans.
systemd: Type=notify, WatchdogSec.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import resource
import selectors
import signal
import socket
import sys
import time
from pathlib import Path

from proxy import channel, succession
from proxy.child import CAUGHT, Child, Role, python
from proxy.household import Household
from proxy.notify import Notifier, say
from proxy.upgrade import Upgrade
from proxy.upgrade_report import Report

SILENCE_S = 10.0
START_S = 60.0  # until a front's first word: imports on a busy machine
BACK_OFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0)
GOOD_LIFE_S = 10.0  # after which the back-off begins anew
RELAYS_STOP_S = 2.0
AT_ONCE_S = 1.0
_RETRY_S = 0.1


def run(front_arguments: list[str]) -> int:
    """Run the product until it is told to stop; return its exit code."""
    return Parent(python("proxy.app", *front_arguments)).run()


class Parent:
    """The loop. `front_command` is the argument vector of a front; it reads CONTROL_FD."""

    def __init__(self, front_command: list[str], *, silence_s: float = SILENCE_S) -> None:
        self._silence_s = silence_s
        self._selector = selectors.DefaultSelector()
        self._house = Household(front_command)
        predecessor = succession.inherited()
        self._predecessor = predecessor
        if predecessor is not None:
            self._house.restore(predecessor)
        report = Report(predecessor["report"] if predecessor is not None else None)
        self._upgrade = Upgrade(self._house, report, self._start)
        self._stops = 0
        self._code: int | None = None  # set when the front has ended for good
        self._kill_at: float | None = None
        self._notify = Notifier()
        self._woken, self._waker = channel.pair()

    def run(self) -> int:
        """Until the front has ended for good and no other child is left."""
        _prepare_descriptors()
        house = self._house
        signal.set_wakeup_fd(self._waker.fileno(), warn_on_full_buffer=False)
        for number in CAUGHT:
            signal.signal(number, lambda _number, _frame: None)
        self._selector.register(self._woken, selectors.EVENT_READ, self._signalled)
        if self._predecessor is not None:
            for child in house.children:
                self._watch(child)
            self._upgrade.go_on(self._predecessor)
            self._reap()
        while self._code is None or any(child.pid for child in house.children):
            self._keep()
            asked = time.monotonic() + self._patience()
            for key, _ in self._selector.select(asked - time.monotonic()):
                key.data()
            if time.monotonic() - asked > 1:
                for front in house.fronts:  # all of us were stopped, not the front
                    front.heard_at = front.heard_at and time.monotonic()
        return self._code

    # Time

    def _keep(self) -> None:
        """What is due now: starts, silence, an upgrade's step, the end of a stop, the watchdog."""
        now = time.monotonic()
        house = self._house
        self._notify.watchdog(now, stopping=self._stops == 1)
        for child in house.children:
            child.flush()
        if self._code is None:
            for child in (house.front, *house.relays):
                if not child.pid and child.due_at <= now and self._starts:
                    self._start(child)
            for front in house.fronts:
                if front.pid and self._silent_at(front) <= now:
                    say("front_silent", pid=front.pid)
                    front.heard_at = now
                    front.kill(signal.SIGKILL)
            self._upgrade.keep_time(now)
        if self._kill_at is not None and self._kill_at <= now:
            self._kill_at = None
            for child in house.children:
                child.kill(signal.SIGKILL)

    @property
    def _starts(self) -> bool:
        """Whether children are started: told to stop, only what a front needs to get ready."""
        return not self._stops or not self._house.front.ready

    def _silent_at(self, front: Child) -> float:
        if front.heard_at is None:
            return front.started_at + START_S
        return front.heard_at + self._silence_s

    def _patience(self) -> float:
        now = time.monotonic()
        house = self._house
        due = [now + 60.0, self._notify.due_at]
        if self._code is None:
            due.append(self._upgrade.due_at)
            if self._starts:
                due += [child.due_at for child in (house.front, *house.relays) if not child.pid]
        due += [self._silent_at(front) for front in house.fronts if front.pid]
        if self._kill_at is not None:
            due.append(self._kill_at)
        if any(child.outbox for child in house.children):
            due.append(now + _RETRY_S)
        return max(0.0, min(due) - now)

    # Children

    def _start(self, child: Child) -> None:
        try:
            self._house.start(child)
        except OSError as error:
            say("start_failed", process=child.role, index=child.index, error=str(error))
            self._died(child, 1)
        else:
            self._watch(child)

    def _watch(self, child: Child) -> None:
        control = child.control
        if control is not None:
            self._selector.register(
                control, selectors.EVENT_READ, lambda: self._hear(child, control)
            )

    def _let_go(self, child: Child) -> None:
        if child.control is not None:
            with contextlib.suppress(KeyError):  # its start failed
                self._selector.unregister(child.control)
        child.hang_up()

    def _signalled(self) -> None:
        with contextlib.suppress(BlockingIOError):
            while True:
                self._obey_signal(self._woken.recv(1)[0])
        self._reap()

    def _obey_signal(self, number: int) -> None:
        if number in {signal.SIGTERM, signal.SIGINT}:
            self._stop()
        elif number == signal.SIGHUP:
            self._house.front.kill(signal.SIGHUP)
        elif number == signal.SIGUSR2:
            self._upgrade.begin(stopping=bool(self._stops))

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            for child in self._house.children:
                if child.pid == pid:
                    self._died(child, os.waitstatus_to_exitcode(status))

    def _died(self, child: Child, code: int) -> None:
        while child.control is not None and self._hear(child, child.control):
            pass  # its last words
        pid, child.pid, child.ready = child.pid, 0, False
        self._let_go(child)
        house = self._house
        leaves = child in house.leaving
        if code or not (leaves or self._stops or child is house.trial):
            say("process_ended", process=child.role, index=child.index, pid=pid, code=code)
        if leaves:
            house.leaving.remove(child)
            if child.role is Role.FRONT:
                self._upgrade.front_has_left()
        elif child is house.trial:
            self._upgrade.tried(code, self._signalled)
        elif child is house.next:
            self._upgrade.next_has_died(code)
        elif child.role is Role.RELAY:
            self._again_later(child)
        elif self._stops or not house.ever_ready:
            self._finish(code if code >= 0 else 128 - code)
        elif house.next is not None:
            house.promote()  # it comes anyway
        else:
            self._again_later(child)

    def _again_later(self, child: Child) -> None:
        now = time.monotonic()
        if now - child.started_at >= GOOD_LIFE_S:
            child.deaths = 0
        child.due_at = now + BACK_OFF_S[min(child.deaths, len(BACK_OFF_S) - 1)]
        child.deaths += 1

    # Stop

    def _stop(self) -> None:
        house = self._house
        self._stops += 1
        self._notify.say("STOPPING=1")
        if self._stops > 1:
            self._kill_at = time.monotonic() + AT_ONCE_S
        self._upgrade.fail("the proxy was told to stop")
        for child in (house.trial, house.next):
            if child is not None:
                child.kill(signal.SIGKILL)
        if house.front.pid:
            house.front.kill(signal.SIGTERM)
        elif self._code is None:
            self._finish(0)  # it came between two fronts

    def _finish(self, code: int) -> None:
        self._code = code
        self._kill_at = time.monotonic() + RELAYS_STOP_S
        for child in (*self._house.relays, *self._house.leaving):
            if child.role is Role.RELAY:
                child.post({"act": "stop"})
            else:
                child.kill(signal.SIGTERM)

    # Messages

    def _hear(self, child: Child, control: socket.socket) -> bool:
        """Read one message; False where there is none."""
        if child.control is not control:
            return False  # let go earlier in this batch
        try:
            message = channel.receive(control)
        except EOFError:
            self._let_go(child)  # it is dying; waitpid tells the rest
            return False
        if message is None:
            return False
        try:
            if child.role is Role.FRONT:
                child.heard_at = time.monotonic()
                self._obey(child, json.loads(message.data), message.fds)
        except (OSError, ValueError, KeyError) as error:
            say("message_refused", error=repr(error))
        finally:
            channel.close_all(message.fds)
        return True

    def _obey(self, front: Child, said: dict[str, object], fds: tuple[int, ...]) -> None:
        act = said.get("act")
        if act == "ready":
            front.ready = self._house.ever_ready = True
            self._notify.say(f"READY=1\nMAINPID={os.getpid()}")
            self._upgrade.front_is_ready(front)
        elif act == "relay_ready" and front is self._house.front:
            self._house.relay_is_ready(said["pid"])
            self._upgrade.relay_is_ready()
        elif act == "configuration" and fds:
            self._house.keep_configuration(fds[0])
        elif act in {"listen", "unlisten", "relays"}:
            answer: dict[str, object] = {"act": act, "number": said["number"]}
            fd = None
            try:
                if act == "relays":
                    self._house.have_relays(int(str(said["count"])))
                else:
                    place = str(said["host"]), int(str(said["port"]))
                    fd = self._listening_at(front, place) if act == "listen" else None
                    if act == "unlisten":
                        front.listens.discard(place)
                        self._house.listening.close(*place)
            except (OSError, OverflowError) as error:
                answer["errno"] = getattr(error, "errno", None) or errno.EINVAL
                answer["error"] = getattr(error, "strerror", None) or str(error)
            front.post(answer, fd)

    def _listening_at(self, front: Child, place: tuple[str, int]) -> int:
        fd = self._house.listening.at(*place)
        front.listens.add(place)
        return fd


def _prepare_descriptors() -> None:
    """As many as the system allows, also for the children; none of others' for them."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > sys.stderr.fileno():
            with contextlib.suppress(OSError):  # the listing's own
                os.set_inheritable(int(entry.name), False)
