"""What the demo shows of its runs."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from proxy.address import Address
from proxy.lab.login import Failure, Leg, LoginResult, Step
from proxy.lab.play import Run
from proxy.lab.report import live, show, traces


def failed(failure: Failure, legs: int) -> LoginResult:
    leg = Leg(Step.PROBE, Address("127.0.0.1", 1), b"x", None)
    return LoginResult("alice", legs=[leg] * legs, failure=failure, detail="[as it was]")


def test_traces_are_as_different_as_they_can_be() -> None:
    first = Run("round_robin", [failed(Failure.UNEXPECTED_CERTIFICATE, 2) for _ in range(5)])
    second = Run("sticky", [LoginResult("bob"), failed(Failure.TIMEOUT, 1)])
    assert [(name, one.failure) for name, one in traces([first, second])] == [
        ("round_robin", Failure.UNEXPECTED_CERTIFICATE),
        ("sticky", Failure.TIMEOUT),
        ("round_robin", Failure.UNEXPECTED_CERTIFICATE),
    ]


def test_a_terminal_sees_a_bar_with_the_failures() -> None:
    console = Console(file=io.StringIO(), force_terminal=True, record=True, width=100)
    run = Run("sticky", [failed(Failure.TIMEOUT, 1)])
    with live(console, "sticky", 2) as progress:
        progress(run)
    assert "1/2 logins, 1 failed" in console.export_text()


@pytest.mark.parametrize(
    ("total", "lines"), [(8, [2, 4, 6, 8]), (3, [1, 2, 3])], ids=["many", "few"]
)
def test_a_file_gets_a_line_for_each_quarter(total: int, lines: list[int]) -> None:
    out = io.StringIO()
    run = Run("sticky")
    with live(Console(file=out), "sticky", total) as progress:
        for _ in range(total):
            run.results.append(LoginResult("bob"))
            progress(run)
    assert out.getvalue().splitlines() == [
        f"sticky: {done} of {total} logins, 0 failed" for done in lines
    ]


def test_eighty_columns_are_enough() -> None:
    out = io.StringIO()
    failures = [failed(Failure.UNEXPECTED_CERTIFICATE, 2)] * 91
    show(Console(file=out, width=80), [Run("round_robin", failures, added_ms=[13.69])])
    text = " ".join(out.getvalue().split())
    words = ("round_robin", "misrouted", "91 unexpected", "certificate", "13.69")
    assert all(f" {word} " in f" {text} " for word in words)
    assert "…" not in text


def test_the_table_has_figures_causes_and_traces_and_takes_no_text_for_markup() -> None:
    out = io.StringIO()
    runs = [
        Run("sticky", [failed(Failure.TIMEOUT, 1), failed(Failure.REDIRECTED_AGAIN, 3)]),
        Run("rdp-proxy", [LoginResult("bob")], added_ms=[1.5]),
    ]
    show(Console(file=out, width=120), runs)
    told = out.getvalue()
    assert "1 timeout, 1 redirected again" in told
    assert "1.5" in told
    assert "The client gave up waiting ([as it was])." in told
