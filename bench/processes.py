"""What processes take: processor time, memory of their own, memory of the kernel.

Source: proc(5). Processor time is the scheduler's own account of each thread (schedstat), in
nanoseconds: the tick samples of /proc/PID/stat miss what runs between two ticks.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")


def family(pid: int) -> list[int]:
    """A process and all that descend from it, in ascending order."""
    children: dict[int, list[int]] = {}
    for entry in _PROC.glob("[0-9]*"):
        with suppress(OSError):
            # The name, in parentheses, may hold anything: fields are counted from its end.
            fields = (entry / "stat").read_text().rpartition(")")[2].split()
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found = [pid]
    for parent in found:
        found.extend(children.get(parent, ()))
    return sorted(found)


def cpu_s(pids: Iterable[int]) -> float:
    """Processor time of all threads that live, in seconds."""
    total_ns = 0
    for pid in pids:
        for thread in (_PROC / str(pid) / "task").iterdir():
            with suppress(OSError):
                total_ns += int((thread / "schedstat").read_text().split()[0])
    return total_ns / 1e9


def cpu_percent(pids: Iterable[int], seconds: float) -> float:
    """What they take of one core from now on, over so many seconds."""
    listed = list(pids)
    begin_s, begin = cpu_s(listed), time.monotonic()
    time.sleep(seconds)
    return 100 * (cpu_s(listed) - begin_s) / (time.monotonic() - begin)


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes: resident, resident with shared pages divided among their users, kernel slab."""

    rss: int
    pss: int
    kernel: int

    @classmethod
    def of(cls, pids: Iterable[int]) -> Memory:
        """Of these processes, and of the whole kernel."""
        rollups = [(_PROC / str(pid) / "smaps_rollup").read_text() for pid in pids]
        return cls(
            rss=sum(_field(text, "Rss") for text in rollups),
            pss=sum(_field(text, "Pss") for text in rollups),
            kernel=_field((_PROC / "meminfo").read_text(), "SUnreclaim"),
        )


def _field(text: str, name: str) -> int:
    found = re.search(rf"^{name}:\s+(\d+) kB$", text, re.MULTILINE)
    if found is None:
        raise ValueError(f"no {name} in {text[:40]!r}")
    return 1024 * int(found[1])
