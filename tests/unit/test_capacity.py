"""How many relays, and how many sockets they may open."""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

import pytest

from proxy.capacity import RELAYS_MAX, default_relays, raise_open_files


@pytest.mark.parametrize(
    ("quota", "at_most"),
    [
        ("max 100000", RELAYS_MAX),
        ("150000 100000", 1),
        ("50000 100000", 1),
        ("rubbish", RELAYS_MAX),
    ],
)
def test_a_relay_for_each_core_that_may_be_used(tmp_path: Path, quota: str, at_most: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    cores = len(os.sched_getaffinity(0))
    assert default_relays(file) == min(cores, at_most)


def test_no_cgroup_is_no_quota(tmp_path: Path) -> None:
    assert default_relays(tmp_path / "none") == min(len(os.sched_getaffinity(0)), RELAYS_MAX)


def test_the_limit_of_open_files_is_raised_and_told_where_it_is_too_low(
    caplog: pytest.LogCaptureFixture,
) -> None:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (256, before[1]))
        raise_open_files(connections=10, relays=1)
        assert resource.getrlimit(resource.RLIMIT_NOFILE)[0] == before[1]
        assert caplog.records == []
        with caplog.at_level(logging.WARNING):
            raise_open_files(connections=before[1], relays=1)
        (record,) = caplog.records
        assert "limits.connections" in record.__dict__["detail"]
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
