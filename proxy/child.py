"""Child: a process of the parent's, and the control channel to it. Standard library only.

A child is a fresh interpreter, never a fork. Its end of the control channel is CONTROL_FD; what is
said there is listed in proxy/parent.py. It begins with its signals blocked, so that none comes
before its handlers stand.

`state` and `restored` carry a child over an exec of the parent: the process goes on meanwhile, and
so does its channel.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any, Self

from proxy import channel

CONTROL_FD = 3  # a child's number of its control channel
CAUGHT = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR2, signal.SIGCHLD)
BLOCKED = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2)


class Role(StrEnum):
    """What a child is for."""

    FRONT = "front"
    RELAY = "relay"
    TRIAL = "trial"  # of newly installed code, before an upgrade


def python(module: str, *arguments: str) -> list[str]:
    """The argument vector of a child that runs a module of ours."""
    return [sys.executable, "-m", module, "--control-fd", str(CONTROL_FD), *arguments]


@dataclass(slots=True, eq=False)
class Child:
    """A place for a process: the one that fills it now, and when the next one may.

    Attributes:
        pid: 0 where there is none now.
        started_at, heard_at, due_at: monotonic seconds, which go on through an exec.
        deaths: since its last good life.
        ready: a front accepts clients; a relay has told all of its rows.
        retired: a relay that takes nothing new.
        listens: the addresses that a front asked for.
    """

    role: Role
    command: list[str]
    index: int = 0
    pid: int = 0
    control: socket.socket | None = None
    outbox: deque[tuple[bytes, int | None]] = field(default_factory=deque)
    started_at: float = 0.0
    heard_at: float | None = None
    due_at: float = 0.0
    deaths: int = 0
    ready: bool = False
    retired: bool = False
    listens: set[tuple[str, int]] = field(default_factory=set)

    def start(self, *greeting: tuple[Mapping[str, object], int | None]) -> None:
        """Start a process; what is in `greeting` it finds in its channel.

        Raises:
            OSError: there are no descriptors or processes left; nothing was started.
        """
        self.started_at = time.monotonic()
        self.control, theirs = channel.pair()
        self.heard_at, self.ready, self.retired = None, False, False
        self.listens = set()
        with theirs:
            for said, fd in greeting:
                self.post(said, fd)
            self.pid = os.posix_spawn(
                self.command[0],
                self.command,
                os.environ,
                file_actions=[(os.POSIX_SPAWN_DUP2, theirs.fileno(), CONTROL_FD)],
                setsigmask=BLOCKED,
                setsigdef=CAUGHT,
            )

    def kill(self, number: signal.Signals) -> None:
        """Send a signal, where there is a process."""
        if self.pid:  # not reaped yet, so the number is still its own
            os.kill(self.pid, number)

    def post(self, said: Mapping[str, object], fd: int | None = None) -> None:
        """Send, now or as soon as the child reads again. `fd` stays the caller's."""
        if self.control is not None:
            copy = None if fd is None else os.dup(fd)
            self.outbox.append((json.dumps(said).encode(), copy))
            self.flush()

    def flush(self) -> None:
        """Send what waits, as far as the channel takes it."""
        while self.outbox and self.control is not None:
            data, fd = self.outbox[0]
            try:
                if not channel.send(self.control, data, () if fd is None else (fd,)):
                    return
            except OSError:
                return  # it is dying; what waits goes with it
            self.outbox.popleft()
            if fd is not None:
                os.close(fd)

    def hang_up(self) -> None:
        """Close the channel; what waited for it is dropped."""
        if self.control is not None:
            self.control.close()
            self.control = None
        channel.close_all(fd for _, fd in self.outbox if fd is not None)
        self.outbox.clear()

    def state(self) -> dict[str, Any]:
        """All that a successor of the parent needs to know; see `descriptors`."""
        return {
            "index": self.index,
            "pid": self.pid,
            "control": None if self.control is None else self.control.fileno(),
            "outbox": [[data.decode(), fd] for data, fd in self.outbox],
            "started_at": self.started_at,
            "heard_at": self.heard_at,
            "due_at": self.due_at,
            "deaths": self.deaths,
            "ready": self.ready,
            "retired": self.retired,
            "listens": sorted(map(list, self.listens)),
        }

    def descriptors(self) -> list[int]:
        """Those that `state` names."""
        fds = [fd for _, fd in self.outbox if fd is not None]
        return fds if self.control is None else [self.control.fileno(), *fds]

    @classmethod
    def restored(cls, role: Role, command: list[str], state: Mapping[str, Any]) -> Self:
        """A child of the parent's predecessor."""
        control = state["control"]
        return cls(
            role,
            command,
            index=state["index"],
            pid=state["pid"],
            control=None if control is None else channel.adopt(control),
            outbox=deque((text.encode(), fd) for text, fd in state["outbox"]),
            started_at=state["started_at"],
            heard_at=state["heard_at"],
            due_at=state["due_at"],
            deaths=state["deaths"],
            ready=state["ready"],
            retired=state["retired"],
            listens={(host, port) for host, port in state["listens"]},
        )
