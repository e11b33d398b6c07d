"""Report: how an upgrade is asked for, and how whoever asked learns what came of it.

The parent keeps a small memory file under a name that nobody else uses. It is found again under
/proc by who may look into the parent, which is its own user and root: so a command learns the
outcome without a configuration, a port or a file on disk, in a container as on a host. Standard
library only.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import asdict, dataclass
from enum import StrEnum
from pathlib import Path

_NAME = "rdp-proxy-upgrade"
_LINK = f"/memfd:{_NAME} (deleted)"
_ROOM_BYTES = 4096
_DETAIL_MAX = 300  # characters, twelve bytes each at most
_POLL_S = 0.05
PATIENCE_S = 240.0  # all of a parent's deadlines for the steps of an upgrade, and a little


class State(StrEnum):
    """How far an upgrade is."""

    NONE = "none"
    RUNNING = "running"
    DONE = "done"
    FAILED = "failed"


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of the newest upgrade: the `number`-th of this parent."""

    number: int = 0
    state: State = State.NONE
    detail: str = ""


class UpgradeError(Exception):
    """It was not done; the message says why, and the proxy serves as before."""


class Report:
    """The parent's side. `fd` stays the same through an exec."""

    def __init__(self, fd: int | None = None) -> None:
        self.fd = os.memfd_create(_NAME, os.MFD_CLOEXEC) if fd is None else fd
        if fd is None:
            self._write(Outcome())

    @property
    def outcome(self) -> Outcome:
        return _read(self.fd)

    def begun(self) -> None:
        """One more upgrade is under way."""
        self._write(Outcome(self.outcome.number + 1, State.RUNNING))

    def ended(self, state: State, detail: str = "") -> None:
        """It is over."""
        self._write(Outcome(self.outcome.number, state, detail[:_DETAIL_MAX]))

    def _write(self, outcome: Outcome) -> None:
        text = json.dumps(asdict(outcome)).encode()
        os.pwrite(self.fd, text[:_ROOM_BYTES].ljust(_ROOM_BYTES), 0)  # one size: never torn


def running_parents() -> list[int]:
    """The pids of all parents that this user may ask."""
    return [int(process.name) for process in Path("/proc").glob("[0-9]*") if any(_reports(process))]


def request(pid: int, patience_s: float = PATIENCE_S) -> None:
    """Have the parent `pid` upgraded, and wait for the end of it.

    Raises:
        UpgradeError: it was not done.
    """
    found = next(_reports(Path(f"/proc/{pid}")), None)
    if found is None:
        raise UpgradeError(f"process {pid} is no running rdp-proxy, or another user's")
    fd = os.open(found, os.O_RDONLY | os.O_CLOEXEC)
    try:
        before = _read(fd)
        if before.state is State.RUNNING:
            raise UpgradeError("an upgrade is under way already")
        os.kill(pid, signal.SIGUSR2)
        _wait(pid, fd, before.number, time.monotonic() + patience_s)
    finally:
        os.close(fd)


def _wait(pid: int, fd: int, before: int, until: float) -> None:
    while time.monotonic() < until:
        outcome = _read(fd)
        if outcome.number > before and outcome.state is State.DONE:
            return
        if outcome.number > before and outcome.state is State.FAILED:
            raise UpgradeError(outcome.detail)
        if not Path(f"/proc/{pid}").exists():
            raise UpgradeError(f"process {pid} has ended meanwhile")
        time.sleep(_POLL_S)
    raise UpgradeError("there is no outcome yet: the proxy's log tells more")


def _reports(process: Path) -> Iterator[Path]:
    """The memory file of a process that is a parent, where it may be seen."""
    with suppress(OSError):
        for fd in (process / "fd").iterdir():
            with suppress(OSError):
                if str(fd.readlink()) == _LINK:
                    yield fd


def _read(fd: int) -> Outcome:
    fields = json.loads(os.pread(fd, _ROOM_BYTES, 0))
    return Outcome(fields["number"], State(fields["state"]), fields["detail"])
