"""Build the load generator, run its hosts, play its scenes."""

from __future__ import annotations

import json
import subprocess
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from bench.contenders import HOSTS, Running

_SOURCES = sorted(Path(__file__).parent.glob("*.c"))
_FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra")
_SPARE_S = 60.0  # of a scene, beside its own time: opening its connections

Result = dict[str, float]


class SceneError(Exception):
    """A scene could not be played to its end; the message says what the load saw."""


class Load:
    """The load generator, with its hosts running."""

    def __init__(self, program: Path, hosts: int) -> None:
        self._program = program
        self._hosts = hosts

    def play(self, running: Running, scene: str, *words: str, timeout_s: float) -> Result:
        """Play one scene. Raises SceneError."""
        command = self._command(running, scene, words)
        limit_s = timeout_s + _SPARE_S
        try:
            done = subprocess.run(
                command, capture_output=True, text=True, timeout=limit_s, check=False
            )
        except subprocess.TimeoutExpired:
            raise SceneError(f"not at its end after {limit_s:.0f} s") from None
        if done.returncode != 0:
            raise SceneError(done.stderr.strip() or f"exit code {done.returncode}")
        result: Result = json.loads(done.stdout)
        return result

    @contextmanager
    def idle(self, running: Running, connections: int) -> Iterator[Idle]:
        """Connections that do nothing, as many as one asks for."""
        words = ("--connections", str(connections))
        with (
            tempfile.TemporaryFile("w+") as complaints,
            subprocess.Popen(
                self._command(running, "idle", words),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=complaints,
                text=True,
            ) as child,
        ):
            assert child.stdin is not None
            assert child.stdout is not None
            try:
                yield Idle(child.stdin, child.stdout, complaints)
            finally:
                child.kill()

    def _command(self, running: Running, scene: str, words: Iterable[str]) -> list[str]:
        return [
            *(str(self._program), scene, "--target", ",".join(running.contender.targets)),
            *("--proxy-pids", ",".join(map(str, running.pids))),
            *("--load-pids", str(self._hosts)),
            *words,
        ]


class Idle:
    """Connections that the load holds open."""

    def __init__(self, orders: IO[str], answers: IO[str], complaints: IO[str]) -> None:
        self._orders = orders
        self._answers = answers
        self._complaints = complaints

    def open(self, connections: int) -> None:
        """Have so many open, in all. Raises SceneError."""
        try:
            self._orders.write(f"{connections}\n")
            self._orders.flush()
            answered = self._answers.readline()
        except BrokenPipeError:
            answered = ""
        if not answered:
            self._complaints.seek(0)
            raise SceneError(self._complaints.read().strip())


@contextmanager
def load(directory: Path) -> Iterator[Load]:
    """Compile it into the directory and start its hosts."""
    program = directory / "load"
    subprocess.run(["gcc", *_FLAGS, "-o", program, *_SOURCES], check=True)
    with subprocess.Popen([program, "hosts", *HOSTS], stdout=subprocess.PIPE) as hosts:
        try:
            assert hosts.stdout is not None
            if hosts.stdout.readline() != b"ready\n":
                raise SceneError("the simulated hosts do not start")
            yield Load(program, hosts.pid)
        finally:
            hosts.kill()
