"""Recollection: the hosts that this node last saw in force, for when the table is away.

Bounded: the keys that were longest unseen are forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict

from proxy.affinity.store import PinKey

KEYS_MAX = 100_000  # 30 MB


class Recollection:
    """The last host of each key that was seen lately."""

    def __init__(self, keys_max: int = KEYS_MAX) -> None:
        """Nothing is known yet."""
        self._keys_max = keys_max
        self._hosts: OrderedDict[PinKey, str] = OrderedDict()

    def note(self, key: PinKey, host: str) -> None:
        """`key` is pinned to `host` now."""
        self._hosts[key] = host
        self._hosts.move_to_end(key)
        if len(self._hosts) > self._keys_max:
            self._hosts.popitem(last=False)

    def forget(self, key: PinKey) -> None:
        """`key` has no pin now."""
        self._hosts.pop(key, None)

    def host_of(self, key: PinKey) -> str | None:
        """The host that was last noted."""
        return self._hosts.get(key)
