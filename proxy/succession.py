"""Succession: how a parent becomes a new one, of newly installed code, in the same process.

exec(2) keeps the pid, the children and every descriptor that is inheritable; what they are for is
told in a memory file, whose number the environment names. Standard library only.

- The file is JSON; whoever changes what it says counts STATE_VERSION up, and reads the version
  before it too. Before a parent execs itself, a trial process of the new code reads the version and
  imports everything: code that cannot start never replaces code that runs.
- All signals are blocked from before the exec until the successor's handlers stand: a signal that
  came between them would end the process.
- `sys.orig_argv` begins anew what was begun: the same interpreter path, script and arguments.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import signal
import sys
import time
from collections.abc import Collection, Mapping
from typing import Any

from proxy import channel
from proxy.child import CONTROL_FD, python

STATE_VERSION = 1
_VARIABLE = "RDP_PROXY_SUCCESSION"
_TRIAL_S = 60.0
_NEEDED = ("proxy.parent", "proxy.app", "proxy.relay.process")

State = dict[str, Any]


def write_state(state: Mapping[str, Any]) -> int:
    """A memory file with the state; the descriptor is the caller's."""
    fd = os.memfd_create("succession", os.MFD_CLOEXEC)
    data = json.dumps({"version": STATE_VERSION, "pid": os.getpid(), **state}).encode()
    while data:
        data = data[os.write(fd, data) :]
    return fd


def read_state(fd: int) -> State:
    """What `write_state` wrote, here or in a predecessor.

    Raises:
        ValueError: it is not a state that this code understands.
    """
    state = json.loads(os.pread(fd, os.fstat(fd).st_size, 0))
    if not isinstance(state, dict) or state.get("version") != STATE_VERSION:
        raise ValueError(f"a state of version {STATE_VERSION} is wanted")
    return state


def exec_anew(state: Mapping[str, Any], descriptors: Collection[int]) -> None:
    """Become a new parent. Returns only by the exception. All signals must be blocked.

    Raises:
        OSError: the program cannot be executed; everything is as before.
    """
    fd = write_state(state)
    kept = [fd, *descriptors]
    try:
        for each in kept:
            os.set_inheritable(each, True)
        environment = os.environ | {_VARIABLE: str(fd)}
        command = [sys.executable, *sys.orig_argv[1:]]
        os.execve(command[0], command, environment)  # noqa: S606 - what was begun once already
    finally:  # only where it failed
        for each in kept:
            os.set_inheritable(each, False)
        os.close(fd)


def inherited() -> State | None:
    """What a predecessor left to this process; None where there was none."""
    number = os.environ.pop(_VARIABLE, "")
    if not number.isdecimal():
        return None
    try:
        state = read_state(int(number))
    except (OSError, ValueError):
        return None  # a stray variable, for the trial has read the state of a real predecessor
    if state["pid"] != os.getpid():
        return None  # a predecessor's child that is no successor
    os.close(int(number))
    return state


def trial_command() -> list[str]:
    """The argument vector of a child that tries the installed code; the state comes to it."""
    return python("proxy.succession")


def _try() -> None:
    """Read the state that the parent sends, and import all that is to run."""
    control = channel.adopt(CONTROL_FD)
    deadline = time.monotonic() + _TRIAL_S
    while (message := channel.receive(control)) is None:
        if time.monotonic() >= deadline:
            raise TimeoutError("the parent sent no state")
        time.sleep(0.01)
    read_state(message.fds[0])
    for module in _NEEDED:
        importlib.import_module(module)


if __name__ == "__main__":
    argparse.ArgumentParser().parse_known_args()
    signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGTERM])
    _try()
