"""Will: what the operator wants of a session host, apart from what health thinks of it.

    ready        new clients may be balanced there
    drain        nobody new; whoever belongs there may come, as far as `Pins` says. Tokens always do
    maintenance  nobody comes; connections that live go on

A `Wish` is the whole of it: the will, its conditions, and the weight in place of the configured
one. Nodes tell it to each other as text through the affinity table, so newer versions may add
fields and none changes its meaning.

Invariants: pure; times are seconds since the epoch.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from enum import StrEnum

WEIGHT_MAX = 10_000


class Will(StrEnum):
    """What is wanted of a host. Bounded: used as a metrics label."""

    READY = "ready"
    DRAIN = "drain"  # serves whom it has (pins, tokens), takes nobody new
    MAINTENANCE = "maintenance"  # serves nobody


class Pins(StrEnum):
    """Whose pins still count at a host that drains."""

    KEEP = "keep"  # everybody's
    LIVE = "live"  # of those who are connected, or were a moment ago
    DROP = "drop"  # nobody's


class Hold(StrEnum):
    """How firmly a client holds its pin."""

    IDLE = "idle"  # it was here some time
    LIVE = "live"  # it has a live connection, or had one a moment ago
    FIXED = "fixed"  # somebody decided it: the pin never expires


_ADMITTED = {
    Pins.KEEP: frozenset(Hold),
    Pins.LIVE: frozenset((Hold.LIVE, Hold.FIXED)),
    Pins.DROP: frozenset((Hold.FIXED,)),
}


@dataclass(frozen=True, slots=True)
class Wish:
    """What the operator wants of one host.

    Attributes:
        since: when the will was said; None: never.
        deadline: when a drain should be over.
        close: then close what is left, and let nobody come any more.
        weight: counts in place of the configured one.
    """

    will: Will = Will.READY
    pins: Pins = Pins.KEEP
    since: float | None = None
    deadline: float | None = None
    close: bool = False
    weight: int | None = None

    def admits(self, hold: Hold) -> bool:
        """Whether a client that is pinned to the host may come."""
        if self.will is Will.DRAIN:
            return hold in _ADMITTED[self.pins]
        return self.will is Will.READY

    def at(self, now: float) -> Wish:
        """The same, once its deadline has come: what is to be closed then is in maintenance."""
        if self.will is Will.DRAIN and self.closes_by(now):
            return replace(self, will=Will.MAINTENANCE, since=self.deadline)
        return self

    def closes_by(self, now: float) -> bool:
        """Whether no connection may be left."""
        return self.close and self.deadline is not None and now >= self.deadline

    def pack(self) -> str:
        """The text by which nodes tell it to each other."""
        fields = {
            "will": self.will,
            "pins": self.pins,
            "since": self.since,
            "deadline": self.deadline,
            "close": self.close,
            "weight": self.weight,
        }
        return json.dumps(fields, separators=(",", ":"))

    @classmethod
    def unpack(cls, text: str) -> Wish:
        """The wish in a text; fields that this version does not know are passed over.

        Raises:
            ValueError: it is none.
        """
        try:
            fields = json.loads(text)
            return cls(
                Will(fields["will"]),
                Pins(fields["pins"]),
                _number(fields["since"]),
                _number(fields["deadline"]),
                bool(fields["close"]),
                _weight(fields["weight"]),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(f"not what an operator wants: {text!r}") from error


def _number(value: object) -> float | None:
    if value is not None and not isinstance(value, int | float):
        raise TypeError
    return value


def _weight(value: object) -> int | None:
    if value is not None and not (type(value) is int and 0 <= value <= WEIGHT_MAX):
        raise TypeError
    return value
