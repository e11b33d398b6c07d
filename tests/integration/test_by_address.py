"""Redirection by address, where clients reach the hosts through the proxy alone."""

from __future__ import annotations

import subprocess
import sys


def test_no_login_fails_where_the_proxy_goes_by_what_clients_dial() -> None:
    command = [sys.executable, "-m", "tests.integration.by_address"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300.0, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
