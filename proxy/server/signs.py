"""Signs: follows clients from one connection to the next, and tells the trouble that it sees.

The judgement is `proxy.routing.signs`. Here is its memory: connections younger than `SHORT_S`, and
the last one of each client, known by its source and by source and user. A redirected client sends
its token in place of its name, so for a token the source alone counts.

Many people behind one address without names cannot be told from one client that comes again: there
only tokens and hosts are judged. All memory is bounded, and each connection costs a few lookups.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from proxy.errors import Cause, Side
from proxy.memory import Memory
from proxy.routing.key import is_within, normal_user
from proxy.routing.lifespans import SHORT_S
from proxy.routing.model import Reason, TokenFate
from proxy.routing.pool import Pool
from proxy.routing.signs import (
    LOOP_HOPS,
    LOOP_S,
    Hops,
    Passage,
    Sign,
    follows,
    is_glance,
    suspects_certificate,
)
from proxy.server.record import ConnectionRecord, Observer
from proxy.server.shared_sources import SharedSources
from proxy.server.table import Established

_CLIENTS = 10_000  # remembered; the longest unseen goes first


@dataclass(slots=True)
class Signs:
    """Watches connections come and go (TableWatcher)."""

    pools: Mapping[str, Pool]
    shared: SharedSources
    observer: Observer
    wall: Callable[[], float]
    _young: dict[int, tuple[Passage, Passage | None]] = field(default_factory=dict)
    _last: Memory[str, Passage] = field(default_factory=lambda: Memory(_CLIENTS))
    _hops: Memory[str, Hops] = field(default_factory=lambda: Memory(_CLIENTS))

    def established(self, row: Established) -> None:
        record, host = row.record, row.host
        now = self.wall()
        self._let_grow_up(now)
        host.lifespans.began(record.id, record.accepted_at)
        sent = _sent_by(record)
        passage = Passage(record.id, host, sent, normal_user(record.user), now)
        before = self._before(record, passage)
        if sent is None:
            self._hops.pop(record.client.host, None)
        elif before is not None and before.sent_by != sent and not before.is_glance:
            before.host.lifespans.works()  # it sent this client on
        self._young[record.id] = passage, before
        for name in _names(record, passage):
            self._last[name] = passage

    def gone(self, row: Established) -> None:
        record, ending = row.record, row.record.ending
        passage, before = self._young.pop(record.id, (None, None))
        now = record.accepted_at + (record.duration_s or 0.0)
        glance = passage is not None and _is_glance(record)
        says_nothing = glance or ending is None or ending.side is Side.LOCAL
        client = None if says_nothing else record.key or record.client.host
        if row.host.lifespans.ended(record.id, now, client):
            self.observer.sign_seen(Sign.SHORT_LIVED, record, {"within_s": SHORT_S})
        if passage is None or ending is None:
            return
        passage.seen_at, passage.is_glance = now, glance
        if not glance:
            self._count_hop(record, passage, before, now)
        elif before is not None and suspects_certificate(passage, before):
            self._forget(record, passage)
            evidence = {
                "previous_id": before.conn_id,
                "previous_host": before.host.name,
                "previous_was_glance": before.is_glance,
                "previous_s_ago": round(max(0.0, record.accepted_at - before.seen_at), 3),
            }
            self.observer.sign_seen(Sign.CERTIFICATE_MISMATCH, record, evidence)

    def _count_hop(
        self, record: ConnectionRecord, passage: Passage, before: Passage | None, now: float
    ) -> None:
        if passage.sent_by is None or (record.duration_s or 0.0) >= SHORT_S:
            return
        by_destination = record.reason is Reason.DESTINATION
        if by_destination and before is not None and before.sent_by == passage.sent_by:
            return  # whoever dials one host again and again may do so by himself
        hops = self._hops.get(record.client.host) or Hops()
        self._hops[record.client.host] = hops
        if hops.ended(now):
            evidence = {"hops": LOOP_HOPS, "within_s": LOOP_S}
            self.observer.sign_seen(Sign.REDIRECT_LOOP, record, evidence)

    def _before(self, record: ConnectionRecord, passage: Passage) -> Passage | None:
        """The client's connection a moment ago."""
        source = record.client.host
        last = self._last.get(source)
        if passage.sent_by is None or passage.user is not None:
            if passage.user is not None and (own := self._last.get(f"{source} {passage.user}")):
                last = own
            elif last is not None and not self._is_one_client(record, passage, last):
                last = None
        return last if follows(passage, last) else None

    def _is_one_client(self, record: ConnectionRecord, passage: Passage, last: Passage) -> bool:
        """Whether two connections of one address without one name are likely one client's."""
        if passage.user is not None and last.user is not None:  # two names
            return False
        source = record.client.host
        pool = self.pools.get(passage.host.pool)
        declared = pool.settings.affinity.shared_sources if pool is not None else ()
        is_declared = bool(declared) and is_within(ipaddress.ip_address(source), declared)
        return not is_declared and not self.shared.knows(source)

    def _forget(self, record: ConnectionRecord, passage: Passage) -> None:
        """This attempt has failed: what the client does next begins anew."""
        for name in _names(record, passage):
            self._last.pop(name, None)

    def _let_grow_up(self, now: float) -> None:
        while self._young:
            conn_id, (passage, _) = next(iter(self._young.items()))
            if now - passage.seen_at < SHORT_S:
                return
            del self._young[conn_id]


def _sent_by(record: ConnectionRecord) -> str | None:
    if record.fate is not TokenFate.ABSENT:
        return record.token
    return str(record.destination) if record.reason is Reason.DESTINATION else None


def _names(record: ConnectionRecord, passage: Passage) -> tuple[str, ...]:
    """Under what a client is remembered."""
    source = record.client.host
    return (source,) if passage.user is None else (source, f"{source} {passage.user}")


def _is_glance(record: ConnectionRecord) -> bool:
    ending = record.ending
    # Either side may be the first to close: where the client says goodbye in TLS, the host is.
    return (
        ending is not None
        and ending.cause in (Cause.CLOSED, Cause.RESET)
        and is_glance(
            record.answer,
            bytes_up=record.bytes_up,
            bytes_down=record.bytes_down,
            duration_s=record.duration_s or 0.0,
        )
    )
