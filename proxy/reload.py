"""Reloader: takes the configuration file again when it has changed, or when SIGHUP asks for it.

Laws:
- A file that cannot be used is refused whole, with all of its problems, and what is in force stays.
- The file is looked at, not listened to: where it is a symbolic link, as Kubernetes mounts it, a
  change puts another file in its place. One that is still being written is left alone until it has
  stood still for a look.
- What differs but has to wait for a start or an upgrade is named each time.
"""

from __future__ import annotations

import asyncio
import gc
import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from time import perf_counter

from proxy import config
from proxy.config.changes import Change, summary
from proxy.control.exposition import Sample
from proxy.control.logs import LogWriter
from proxy.errors import ConfigError
from proxy.front import Front, StartError
from proxy.settings import Settings

log = logging.getLogger("proxy")

LOOK_S = 1.0
_TOLD_MAX = 20  # problems or changes, each a log line or a part of one


class Outcome(StrEnum):
    """What became of an attempt to reload."""

    APPLIED = "applied"
    UNCHANGED = "unchanged"
    REFUSED = "refused"


class Reloader:
    """Watches the file at `path` for `front`.

    Args:
        writer: takes the new level and format of the log.
        wall: seconds since the epoch.
        refused: whether the front had to start with an older configuration than the file's.
    """

    def __init__(
        self,
        path: str,
        front: Front,
        writer: LogWriter,
        wall: Callable[[], float],
        *,
        refused: bool,
    ) -> None:
        self._path = path
        self._front = front
        self._writer = writer
        self._wall = wall
        self._asked = asyncio.Event()
        self._good = not refused
        self._taken_at = wall()
        self._counts = dict.fromkeys(Outcome, 0)

    def ask(self) -> None:
        """Read the file now, whether it looks changed or not."""
        self._asked.set()

    async def run(self) -> None:
        """Until cancelled."""
        looked: tuple[int, ...] | None = None
        tried: tuple[int, ...] | None = ()  # nothing yet, not even that there is no file
        while True:
            asked = await self._rest()
            seen = await asyncio.to_thread(_signature, self._path)
            if asked or (seen == looked and seen != tried):
                tried = seen
                await self._reload(asked=asked)
            looked = seen

    def samples(self) -> Iterator[Sample]:
        """What the metrics show of it."""
        yield Sample("config_reload_success", (), self._good)
        yield Sample("config_last_reload_timestamp_seconds", (), self._taken_at)
        for outcome, count in self._counts.items():
            yield Sample("config_reloads_total", (outcome,), count)

    async def _rest(self) -> bool:
        """Wait for the next look; whether somebody asked for it."""
        try:
            async with asyncio.timeout(LOOK_S):
                await self._asked.wait()
        except TimeoutError:
            return False
        self._asked.clear()
        return True

    async def _reload(self, *, asked: bool) -> None:
        began = perf_counter()
        try:
            text = await asyncio.to_thread(config.read, self._path)
            if text == self._front.text and self._good and not asked:
                return
            with _uncollected():
                settings = await asyncio.to_thread(config.loads, text, self._path)
                changed = await self._front.change(settings, text)
        except ConfigError as error:
            self._refused([str(problem) for problem in error.problems])
        except StartError as error:
            self._refused([f"{self._path}: {error}"])
        else:
            self._applied(settings, changed, perf_counter() - began)

    def _refused(self, problems: list[str]) -> None:
        self._good = False
        self._counts[Outcome.REFUSED] += 1
        for problem in problems[:_TOLD_MAX]:
            log.error("config_refused", extra={"detail": problem})
        if len(problems) > _TOLD_MAX:
            more = f"{len(problems) - _TOLD_MAX} more: rdp-proxy check tells them all"
            log.error("config_refused", extra={"detail": more})

    def _applied(self, settings: Settings, changed: list[Change], took_s: float) -> None:
        self._good = True
        self._taken_at = self._wall()
        self._counts[Outcome.APPLIED if changed else Outcome.UNCHANGED] += 1
        self._writer.change(settings.log)
        told = [str(change) for change in changed[:_TOLD_MAX]]
        log.info(
            "config_reloaded", extra=summary(changed) | {"what": told, "took_s": round(took_s, 3)}
        )
        for warning in config.warnings(settings):
            log.warning("configuration", extra={"detail": warning})


@contextmanager
def _uncollected() -> Iterator[None]:
    """Look for no garbage in circles. Of a large file a hundred thousand values come and go, none
    of them in a circle, and each look at all of them would hold up the loop."""
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def _signature(path: str) -> tuple[int, ...] | None:
    """What tells one state of the file that is there from another; None where there is none."""
    try:
        state = Path(path).stat()
    except OSError:
        return None
    # Unlike that of its content, the time of the inode tells who may read it, and cannot be set.
    return state.st_dev, state.st_ino, state.st_ctime_ns, state.st_size
