"""Exposition: the text of one scrape, written in the event loop, a slice at a time.

Prometheus' text format 0.0.4, lines grouped by series as it wants them. A farm of 1,000 hosts has
32,000 lines, 80 ms of work. In a thread that is the worse neighbour: whatever wakes the event loop
then waits for the interpreter, several times for each client, and 7 to 11 ms at worst. So `Slices`
gives the loop its turn after a fraction of a millisecond, and a client on its way to a host meets
one slice, not the scrape.

Source: https://prometheus.io/docs/instrumenting/exposition_formats/
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import NamedTuple

from proxy.control.series import PREFIX, SERIES

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"

_SLICE_S = 0.0003
# Where a turn of the others took long, a slice is this part of it: a busy loop is scraped as well.
_SHARE = 0.25
_SLICE_MAX_S = 0.001


class Sample(NamedTuple):
    """One value of a gauge or counter of `SERIES`."""

    name: str
    labels: tuple[str, ...]
    value: float


class Slices:
    """Lets the event loop run what is ready while something long is done in it."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """`clock` tells seconds."""
        self._clock = clock
        self._until = clock() + _SLICE_S

    async def turn(self) -> None:
        """Let the others have their turn, if this slice is over."""
        over = self._clock()
        if over < self._until:
            return
        await asyncio.sleep(0)
        back = self._clock()
        self._until = back + min(max(_SLICE_S, (back - over) * _SHARE), _SLICE_MAX_S)


class Exposition:
    """The lines of one scrape. Every series of the table is announced, with or without a sample."""

    def __init__(self, slices: Slices) -> None:
        self.slices = slices
        self._lines = {
            name: [f"# HELP {PREFIX}{name} {series.text}\n# TYPE {PREFIX}{name} {series.kind}\n"]
            for name, series in SERIES.items()
        }

    def add(
        self,
        name: str,
        labels: tuple[str, ...],
        value: float,
        suffix: str = "",
        le: str | None = None,
    ) -> None:
        """A sample of a series; of a histogram's with its suffix, a bucket's with its upper end."""
        names = SERIES[name].labels
        if le is not None:
            names, labels = (*names, "le"), (*labels, le)
        text = _label_text(names, labels)
        self._lines[name].append(f"{PREFIX}{name}{suffix}{text} {float(value)!r}\n")

    def add_all(self, samples: Iterable[Sample]) -> None:
        """Samples that are taken at once, without a turn for others."""
        for sample in samples:
            self.add(*sample)

    async def text(self) -> bytes:
        """All of it."""
        pieces = []
        for lines in self._lines.values():
            pieces.append("".join(lines).encode())
            await self.slices.turn()
        return b"".join(pieces)


@lru_cache(256)  # the samples of one host come together
def _label_text(names: tuple[str, ...], values: tuple[str, ...]) -> str:
    pairs = zip(names, map(_escaped, values), strict=True)
    inner = ",".join(f'{name}="{value}"' for name, value in pairs)
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", r"\\").replace("\n", r"\n").replace('"', r"\"")
