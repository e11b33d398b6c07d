"""A real client, redirected by address, that reaches the hosts through the proxy alone."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path


def test_freerdp_comes_to_its_session_by_the_address_that_it_was_given(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "tests.interop.by_address", str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300.0, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
