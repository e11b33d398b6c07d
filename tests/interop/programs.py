"""Real programs from Debian: found or missed by name, watched by their log, ended by their pid."""

from __future__ import annotations

import asyncio
import os
import re
import shutil
import signal
import time
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S

POLL_S = 0.05
END_S = 3.0  # from SIGTERM to SIGKILL

PACKAGES = {
    "Xvfb": "xvfb",
    "chromium": "chromium",
    "freerdp-shadow-cli": "freerdp2-shadow-x11",
    "openssl": "openssl",
    "rdesktop": "rdesktop",
    "xfreerdp": "freerdp2-x11",
    "xrdp": "xrdp",
}


def path_of(name: str) -> str:
    """Where a program is. A missing one fails the test and says how to get it."""
    found = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    if found is None:
        pytest.fail(
            f"{name} is not installed: make packages (Debian package {PACKAGES[name]})",
            pytrace=False,
        )
    return found


class Program:
    """A running program. Made by `started`."""

    def __init__(self, name: str, process: asyncio.subprocess.Process, log: Path) -> None:
        self.name = name
        self.process = process
        self.log = log

    @property
    def text(self) -> str:
        """What it has said so far, on both of its outputs."""
        return self.log.read_text(errors="replace")

    async def until(self, what: str, holds: Callable[[], bool]) -> None:
        """Wait until something holds; fail with the program's words if it never does."""
        deadline = time.monotonic() + PATIENCE_S
        while not holds():
            code = self.process.returncode
            if code is not None or time.monotonic() > deadline:
                state = "runs" if code is None else f"ended with {code}"
                words = self.text[-4000:]
                pytest.fail(f"{self.name} {state}, and there was never: {what}\n{words}")
            await asyncio.sleep(POLL_S)

    async def until_says(self, pattern: str) -> re.Match[str]:
        """Wait for words in its log."""
        found: list[re.Match[str]] = []

        def says() -> bool:
            found.extend(re.finditer(pattern, self.text, re.MULTILINE))
            return bool(found)

        await self.until(pattern, says)
        return found[0]

    async def ended(self) -> int:
        """Wait for its end; the exit code."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                return await self.process.wait()
        except TimeoutError:
            pytest.fail(f"{self.name} does not end\n{self.text[-4000:]}")

    async def end(self) -> None:
        """End it and what it has started."""
        for number in (signal.SIGTERM, signal.SIGKILL):
            with suppress(ProcessLookupError):
                os.killpg(self.process.pid, number)  # a group of its own: see `started`
            with suppress(TimeoutError):
                async with asyncio.timeout(END_S):
                    await self.process.wait()


@asynccontextmanager
async def started(
    name: str, *arguments: str, log: Path, answer: str = "", **environment: str
) -> AsyncIterator[Program]:
    """Run a program inside the block.

    Args:
        log: file for what it says.
        answer: what it reads from its standard input, which then ends.
        environment: variables beside the inherited ones.
    """
    with log.open("wb") as sink:
        process = await asyncio.create_subprocess_exec(
            *(path_of(name), *arguments),
            stdin=asyncio.subprocess.PIPE,
            stdout=sink,
            stderr=sink,
            env=os.environ | environment,
            start_new_session=True,
        )
    program = Program(name, process, log)
    try:
        assert process.stdin is not None
        process.stdin.write(answer.encode())
        process.stdin.close()
        yield program
    finally:
        await program.end()
