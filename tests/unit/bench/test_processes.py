"""bench/processes.py: what processes take."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from bench.processes import Memory, cpu_s, family

TWO_DEEP = "import subprocess; subprocess.run(['sh', '-c', 'echo; read line'])"


@pytest.fixture
def ancestor() -> Iterator[int]:
    """A process whose child (the shell) is there."""
    words = [sys.executable, "-c", TWO_DEEP]
    with subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        child.stdout.readline()
        yield child.pid
        child.communicate(b"\n")


def test_a_family_is_a_process_with_all_its_descendants(ancestor: int) -> None:
    assert ancestor in family(ancestor)
    assert len(family(ancestor)) == 2
    assert set(family(ancestor)) < set(family(os.getpid()))


def test_processor_time_grows_with_work_and_is_the_sum_of_processes(ancestor: int) -> None:
    own = [os.getpid()]
    before = cpu_s(own)
    sum(range(3_000_000))  # some 50 ms: the account is kept by ticks
    assert cpu_s(own) > before
    assert cpu_s([*own, ancestor]) > cpu_s([ancestor]) > 0


def test_memory_is_the_sum_of_processes_and_shared_pages_count_less(ancestor: int) -> None:
    one, both = Memory.of([os.getpid()]), Memory.of([os.getpid(), ancestor])
    assert both.rss > one.rss > one.pss > 0
    assert both.kernel > 0
