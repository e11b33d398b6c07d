"""Upgrades: a copy of the product that can be changed under a running proxy, and the command."""

from __future__ import annotations

import asyncio
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Self

import pytest

import proxy as product
from tests.integration.running import RunningProxy

INSTALLED = Path(product.__file__).parent
NEW_VERSION = "99.0.0"


class Installation:
    """A copy of the product where a running proxy finds its code."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        hidden = shutil.ignore_patterns("__pycache__")
        shutil.copytree(INSTALLED, directory / "proxy", ignore=hidden)

    @classmethod
    def made(cls, directory: Path, monkeypatch: pytest.MonkeyPatch) -> Self:
        """Where a proxy that is started now finds its code."""
        installation = cls(directory)
        monkeypatch.setenv("PYTHONSAFEPATH", "1")  # not the code of the working directory
        monkeypatch.setenv("PYTHONPATH", str(directory))
        monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
        return installation

    def install(self, version: str) -> None:
        self.write("__init__.py", f'__version__ = "{version}"\n')

    def write(self, module: str, text: str) -> None:
        (self.directory / "proxy" / module).write_text(text)


async def upgrade(proxy: RunningProxy) -> tuple[int, str]:
    """`rdp-proxy upgrade`: its exit code and what it says."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", "proxy", "upgrade", "--pid", str(proxy.child.pid)],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


async def version(proxy: RunningProxy) -> str:
    _, text = await proxy.get("/metrics")
    found = re.search(r'^rdp_proxy_build_info\{.*version="([^"]+)"', text, re.MULTILINE)
    assert found is not None
    return found[1]
