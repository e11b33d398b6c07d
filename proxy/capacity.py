"""Capacity: how many relays this machine is good for, and how many sockets they may open."""

from __future__ import annotations

import logging
import os
import resource
from pathlib import Path

RELAYS_MAX = 4
_SPARE_FILES = 64  # of a process beside its connections: channels, logs, libraries

log = logging.getLogger(__name__)


def default_relays(cpu_max: Path = Path("/sys/fs/cgroup/cpu.max")) -> int:
    """One relay a core that this process may use, by affinity and cgroup quota; at most four."""
    cores = len(os.sched_getaffinity(0))
    try:
        quota, period = cpu_max.read_text().split()
        cores = min(cores, max(1, int(quota) // int(period)))
    except (OSError, ValueError):
        pass  # no cgroup v2 here, or "max": no quota
    return min(cores, RELAYS_MAX)


def raise_open_files(connections: int, relays: int) -> None:
    """Raise the limit of open files as far as the system lets us, and say where it is too low.

    An established connection costs its relay two descriptors. The parent has raised the limit of
    all its children alike.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    can_hold = max(0, hard - _SPARE_FILES) // 2 * relays
    if can_hold < connections:
        detail = (
            f"relays: {relays}, each with {hard} open files, can hold {can_hold} connections, not"
            f" the {connections} of limits.connections: raise the limit (LimitNOFILE, ulimits)"
        )
        log.warning("open_files_limit", extra={"detail": detail})
