"""Three nodes whose shared table fails over: no login fails for it, or it is told why."""

from __future__ import annotations

import subprocess
import sys

import pytest


@pytest.mark.parametrize(
    ("table", "fault", "balance"),
    [
        ("sentinel", "cut", "hash"),
        ("cluster", "kill", "hash"),
        ("cluster", "freeze", "least_connections"),
    ],
)
def test_no_login_fails_unexplained_while_the_shared_table_fails_over(
    table: str, fault: str, balance: str
) -> None:
    what = ("--table", table, "--fault", fault, "--balance", balance)
    size = ("--rate", "15", "--away", "4", "--around", "2")
    command = [sys.executable, "-m", "tests.integration.three_nodes", *what, *size]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300.0, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
