from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from proxy import channel, succession

ROOT = Path(__file__).parents[2]

# A process that becomes itself anew, with a pipe in its hands and a signal on its way.
GENERATIONS = """
import os, signal, sys
from proxy import succession
state = succession.inherited()
if state is None:
    read, write = os.pipe()
    os.write(write, b"kept")
    signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
    os.kill(os.getpid(), signal.SIGUSR2)
    succession.exec_anew({"pipe": read}, [read])
assert "RDP_PROXY_SUCCESSION" not in os.environ
caught = []
signal.signal(signal.SIGUSR2, lambda *_: caught.append(1))
signal.pthread_sigmask(signal.SIG_SETMASK, [])
print(os.read(state["pipe"], 10), state["pid"] == os.getpid(), caught, sys.argv[1:])
"""


def run(code: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def test_a_process_begins_anew_with_its_pid_descriptors_arguments_and_signals() -> None:
    done = run(GENERATIONS, "--config", "f")
    assert done.stdout == "b'kept' True [1] ['--config', 'f']\n", done.stderr


@pytest.mark.parametrize("number", ["", "x", "9999"])
def test_a_stray_variable_is_no_predecessor(number: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(succession._VARIABLE, number)
    assert succession.inherited() is None
    assert succession._VARIABLE not in os.environ


def test_the_state_of_another_process_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    fd = succession.write_state({"pid": os.getpid() + 1})
    monkeypatch.setenv(succession._VARIABLE, str(fd))
    assert succession.inherited() is None
    os.close(fd)


@pytest.mark.parametrize("state", [{"version": 0}, {}, []])
def test_a_state_of_another_version_is_refused(state: object) -> None:
    fd = os.memfd_create("succession")
    os.write(fd, json.dumps(state).encode())
    with pytest.raises(ValueError, match="version 1"):
        succession.read_state(fd)
    os.close(fd)


def test_where_the_program_cannot_be_executed_all_is_as_before(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    read, write = os.pipe()
    before = set(os.listdir("/proc/self/fd"))  # noqa: PTH208 - numbers
    with pytest.raises(OSError, match="No such file"):
        succession.exec_anew({}, [read])
    assert set(os.listdir("/proc/self/fd")) <= before  # noqa: PTH208 - others may have closed some
    assert not os.get_inheritable(read)
    channel.close_all([read, write])


class Trial:
    """A trial process with the test as its parent."""

    def __init__(self) -> None:
        self.control, theirs = channel.pair()
        with theirs:
            self.process = subprocess.Popen(
                succession.trial_command(),
                preexec_fn=lambda: os.dup2(theirs.fileno(), 3),
                pass_fds=[3],
                stderr=subprocess.PIPE,
                text=True,
            )

    def told(self, fd: int) -> int:
        assert channel.send(self.control, b'{"act": "try"}', [fd])
        os.close(fd)
        _, self.said = self.process.communicate(timeout=60)
        self.control.close()
        return self.process.returncode


def test_a_trial_of_sound_code_with_a_state_it_understands_succeeds() -> None:
    assert Trial().told(succession.write_state({})) == 0


def test_a_trial_fails_where_the_state_is_not_understood() -> None:
    fd = os.memfd_create("succession")
    os.write(fd, b'{"version": 99}')
    trial = Trial()
    assert trial.told(fd) == 1
    assert "version 1" in trial.said


def test_a_trial_ends_without_its_parent() -> None:
    trial = Trial()
    trial.control.close()
    _, said = trial.process.communicate(timeout=60)
    assert trial.process.returncode == 1
    assert "EOFError" in said
    trial.process.send_signal(signal.SIGTERM)
