"""What all tests share: the event loop they run on, and steady property tests."""

from __future__ import annotations

import asyncio
from asyncio import AbstractEventLoop
from collections.abc import Callable, Generator, Mapping

import pytest
import uvloop
from hypothesis import HealthCheck, settings

from tests.coverage_data import drop_halves

LOOPS: Mapping[str, Callable[[], AbstractEventLoop]] = {
    "asyncio": asyncio.SelectorEventLoop,
    "uvloop": uvloop.new_event_loop,
}

# The same examples in each run: a test that fails fails again. `make fuzz` explores. Nothing is
# timed: a fresh tree on a busy machine takes seconds for its first example.
settings.register_profile(
    "steady", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("steady")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--loop`."""
    parser.addoption(
        "--loop",
        choices=[*LOOPS, "both"],
        default="uvloop",
        help="event loop of the asynchronous tests (default: uvloop, as in production)",
    )


@pytest.hookimpl(wrapper=True, trylast=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    """Drop what killed processes have half written before pytest-cov reads it."""
    result = yield
    if not hasattr(session.config, "workerinput"):
        drop_halves(session.config.rootpath)
    return result


def pytest_asyncio_loop_factories(
    config: pytest.Config, item: pytest.Item
) -> Mapping[str, Callable[[], AbstractEventLoop]]:
    """Run each asynchronous test on the chosen loop, or once on each."""
    chosen = config.getoption("--loop")
    return LOOPS if chosen == "both" else {chosen: LOOPS[chosen]}
