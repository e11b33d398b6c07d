from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator

import pytest

from proxy import upgrade_report
from proxy.upgrade_report import Outcome, Report, State, UpgradeError, request, running_parents

# A parent in small: at each signal an upgrade that ends as it is told to.
PARENT = """
import signal, sys, time
from proxy.upgrade_report import Report, State
report = Report()
def upgrade(*_):
    report.begun()
    time.sleep(0.2)
    if sys.argv[1] == "die":
        sys.exit(0)
    report.ended(State(sys.argv[1]), sys.argv[2])
signal.signal(signal.SIGUSR2, upgrade)
print("ready", flush=True)
while True:
    signal.pause()
"""


@pytest.fixture
def report() -> Iterator[Report]:
    report = Report()
    yield report
    os.close(report.fd)


def small_parent(end: str, detail: str = "") -> subprocess.Popen[str]:
    command = [sys.executable, "-c", PARENT, end, detail]
    parent = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    assert parent.stdout.readline() == "ready\n"
    return parent


def end(parent: subprocess.Popen[str]) -> None:
    parent.kill()
    parent.wait()
    assert parent.stdout is not None
    parent.stdout.close()


def test_each_upgrade_has_a_number_and_an_end(report: Report) -> None:
    assert report.outcome == Outcome(0, State.NONE)
    report.begun()
    assert report.outcome == Outcome(1, State.RUNNING)
    report.ended(State.FAILED, "why")
    assert report.outcome == Outcome(1, State.FAILED, "why")
    report.begun()
    report.ended(State.DONE)
    assert report.outcome == Outcome(2, State.DONE)


def test_a_report_goes_on_under_its_descriptor(report: Report) -> None:
    report.begun()
    assert Report(report.fd).outcome.number == 1


def test_the_longest_reason_has_room(report: Report) -> None:
    report.begun()
    report.ended(State.FAILED, "\U0001f600" * 10_000)
    assert report.outcome.state is State.FAILED


def test_whoever_asks_learns_that_it_was_done() -> None:
    parent = small_parent("done")
    assert parent.pid in running_parents()
    request(parent.pid, 20)
    request(parent.pid, 20)
    end(parent)
    assert parent.pid not in running_parents()


@pytest.mark.parametrize(
    ("told", "detail", "why"),
    [("failed", "the front is unwell", "unwell"), ("die", "", "ended meanwhile")],
)
def test_whoever_asks_learns_why_it_was_not_done(told: str, detail: str, why: str) -> None:
    parent = small_parent(told, detail)
    reaper = threading.Thread(target=parent.wait)
    reaper.start()
    with pytest.raises(UpgradeError, match=why):
        request(parent.pid, 20)
    parent.kill()
    reaper.join()
    end(parent)


def test_an_outcome_that_does_not_come_is_not_waited_for_for_ever() -> None:
    parent = small_parent("running")
    with pytest.raises(UpgradeError, match="no outcome"):
        request(parent.pid, 0.5)
    end(parent)


def test_two_do_not_upgrade_at_once(report: Report, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("it was asked"))
    report.begun()
    with pytest.raises(UpgradeError, match="under way"):
        request(os.getpid())


def test_another_process_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    """SIGUSR2 would end it."""
    with subprocess.Popen(["sleep", "60"]) as other:
        with pytest.raises(UpgradeError, match="no running rdp-proxy"):
            request(other.pid)
        assert other.poll() is None
        other.send_signal(signal.SIGKILL)
    assert upgrade_report.PATIENCE_S > 0
