from __future__ import annotations

import json
import os
import re
import socket
from pathlib import Path

import pytest

from proxy.notify import Notifier, say


@pytest.mark.parametrize("abstract", [False, True])
def test_the_service_manager_is_told_where_it_listens(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, abstract: bool
) -> None:
    path = f"@rdp-proxy-test-{os.getpid()}" if abstract else str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind("\0" + path[1:] if abstract else path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        monkeypatch.setenv("WATCHDOG_USEC", "10000000")
        notifier = Notifier()
        notifier.say("READY=1")
        assert manager.recv(100) == b"READY=1"
        now = notifier.due_at
        notifier.watchdog(now)
        assert manager.recv(100) == b"WATCHDOG=1"
        assert notifier.due_at == now + 5.0
        notifier.watchdog(now + 5.0, stopping=True)
        assert manager.recv(100) == b"WATCHDOG=1\nEXTEND_TIMEOUT_USEC=10000000"


def test_a_service_manager_that_is_away_is_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTIFY_SOCKET", "/nowhere/notify")
    Notifier().say("READY=1")
    monkeypatch.delenv("NOTIFY_SOCKET")
    assert Notifier().due_at == float("inf")


def test_a_service_manager_that_does_not_read_is_not_waited_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        monkeypatch.setenv("NOTIFY_SOCKET", path)
        notifier = Notifier()
        for _ in range(5000):  # the queue takes a few hundred at most
            notifier.say("WATCHDOG=1")


def test_a_line_of_the_parents_log_looks_like_the_fronts(
    capsys: pytest.CaptureFixture[str],
) -> None:
    say("process_ended", process="relay", code=-9)
    line = capsys.readouterr().err
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", json.loads(line)["time"])
    said = '"level":"warning","event":"process_ended","process":"relay","code":-9}\n'
    assert line.endswith(said)
