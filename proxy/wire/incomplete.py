"""Incomplete: a parser's answer "what I saw is right so far, read more"."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Incomplete:
    """The message goes on: read at most `missing` (> 0) further bytes, then ask again.

    The message is at least that long, so a reader that obeys never reads past its end.
    """

    missing: int
