"""Unmatched collections: what clients ask for and no pool serves, told to the operator.

Such a client is served by the listener's default pool, which may well be wrong: a typing mistake in
an .rdp file or in the configuration, or a collection that nobody has added yet. Each alias is told
once an hour, and no more than `_ALIASES` of them: whoever makes up names gets no log to fill.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from proxy.routing.routes import Routes
from proxy.wire.tokens import normal_alias

log = logging.getLogger(__name__)

_TOLD_FOR_S = 3600.0
_ALIASES = 100
_SHOWN = 80  # characters


@dataclass(slots=True)
class UnmatchedCollections:
    """Remembers what was told. Times are wall clock, in seconds."""

    _told: set[tuple[str, str]] = field(default_factory=set)
    _since: float = 0.0

    def note(self, listener: str, collection: str, routes: Routes, now: float) -> None:
        """A client of `listener` asks for a collection that is none of its routes."""
        if now - self._since >= _TOLD_FOR_S:
            self._told.clear()
            self._since = now
        which = listener, normal_alias(collection)
        if which in self._told or len(self._told) >= _ALIASES:
            return
        self._told.add(which)
        fields = {
            "listener": listener,
            "collection": collection[:_SHOWN],
            "collections": routes.aliases,
            "pool": routes.default.name,
            "detail": "add the alias to collections of the listener, or correct the .rdp file",
        }
        log.warning("collection_unmatched", extra=fields)
