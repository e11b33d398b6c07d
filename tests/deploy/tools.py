"""Find and run the real tools that judge the files under deploy/."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

_COMES_WITH = {
    "check-jsonschema": "make setup",
    "hadolint": "make setup",
    "promtool": "make packages",
    "systemd-analyze": "make packages",
}


def run_tool(name: str, *arguments: str | Path, cwd: Path = ROOT, text: str | None = None) -> None:
    """Run a tool and fail with its own words where it objects; a missing tool fails too.

    Args:
        text: what it is given to read.
    """
    beside_python = Path(sys.executable).parent
    tool = shutil.which(name, path=str(beside_python)) or shutil.which(name)
    if tool is None:
        pytest.fail(f"{name} is not installed: {_COMES_WITH[name]}", pytrace=False)
    done = subprocess.run(
        [tool, *map(str, arguments)],
        cwd=cwd,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stdout + done.stderr
