"""Gate: who may come in, and how many. Sources that the operator calls shared are not counted."""

from __future__ import annotations

import ipaddress
from collections import Counter
from collections.abc import Callable, Sequence

from proxy.errors import Cause, LimitError
from proxy.memory import Memory
from proxy.routing.key import IPAddress, is_within
from proxy.settings import LimitSettings

_RATED_SOURCES = 10_000  # how many sources' rates are remembered; the longest unseen goes first

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


class Gate:
    """Counts the connections of this front and refuses those beyond `limits`.

    Args:
        shared: networks of RD Gateways and NATs: many people behind one address.
        clock: monotonic seconds.
    """

    def __init__(
        self, limits: LimitSettings, shared: Sequence[Network], clock: Callable[[], float]
    ) -> None:
        self._limits = limits
        self._shared = tuple(shared)
        self._clock = clock
        self.connections = 0
        self._by_source: Counter[str] = Counter()
        self._allowances = Memory[str, tuple[float, float]](_RATED_SOURCES)

    @property
    def is_over_limit(self) -> bool:
        """Whether there are more connections than `limits.connections`, the newest included."""
        return self.connections > self._limits.connections

    def enter(self, source: IPAddress, name: str, allow: Sequence[Network]) -> None:
        """Let a new client in; `name` is its source as text, as `leave` will have it.

        Raises:
            LimitError: it is outside the listener's `allow`, or beyond a limit of its source.
        """
        if not is_within(source, tuple(allow)):
            raise LimitError(Cause.NOT_ALLOWED, f"{source} is not within allow")
        if not is_within(source, self._shared):
            most = self._limits.connections_per_source
            if most is not None and self._by_source[name] >= most:
                raise LimitError(Cause.LIMIT, f"{source} has {most} connections already")
            if not self._within_rate(name):
                raise LimitError(Cause.LIMIT, f"{source} connects too often")
        self._by_source[name] += 1

    def change(self, limits: LimitSettings, shared: Sequence[Network]) -> None:
        """Take other limits; who is in stays in."""
        self._limits = limits
        self._shared = tuple(shared)

    def adopt(self, source: str) -> None:
        """Count a connection that is there already, whatever the limits say."""
        self._by_source[source] += 1

    def leave(self, source: str) -> None:
        """Undo one `enter` or `adopt`."""
        self._by_source[source] -= 1
        if not self._by_source[source]:
            del self._by_source[source]

    def _within_rate(self, source: str) -> bool:
        """Token bucket: a burst of `count`, filled again within the rate's period."""
        rate = self._limits.new_connections_per_source
        if rate is None:
            return True
        now = self._clock()
        left, then = self._allowances.get(source, (float(rate.count), now))
        left = min(float(rate.count), left + (now - then) * rate.count / rate.per_s)
        self._allowances[source] = (max(left - 1, 0.0) if left >= 1 else left, now)
        return left >= 1
