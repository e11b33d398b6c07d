"""Metrics: what the proxy counts, as Prometheus text.

Two kinds of series. What happens on the path is counted as it happens: `Metrics` is an `Observer`
and increments children that were bound once. What already stands somewhere else (hosts, relays,
the affinity table) is read from there at each scrape: `proxy.control.live`.

Laws:
- Labels are bounded by the configuration and by enumerations; what a client or host can choose
  never becomes a label. Names of users, sources and tokens belong to the log.
- Label sets are made at start wherever their number is known, so that `rate()` sees the zero.
- Histograms are kept by pool, never by host: with 300 hosts they would stall a scrape.
- A scrape is written in the loop, in slices (`proxy.control.exposition`); nothing here is done for
  all series in one step.

A new series: a line in `series.SERIES`, and one where it happens or, for a live one, in the part
that owns the value.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter as Tally
from collections.abc import Callable, Iterable, Mapping

from prometheus_client import Counter, Histogram

from proxy.affinity.store import StoreEvent
from proxy.control import live
from proxy.control.exposition import Exposition, Slices
from proxy.control.label_sets import LabelSets
from proxy.control.live import Carried, Sources
from proxy.control.series import OTHER, PREFIX, SERIES
from proxy.errors import Cause, Side
from proxy.routing.model import Reason, RepinCause, TokenFate
from proxy.routing.pool import Pool
from proxy.routing.signs import Sign
from proxy.server.record import ConnectionRecord, Phase
from proxy.settings import ListenerSettings

_LAG_INTERVAL_S = 0.5


_REFUSING = (Reason.TOKEN_REFUSED, Reason.DESTINATION_REFUSED, Reason.NO_HOST)
_PLACING = [r for r in Reason if r not in _REFUSING]
# What an alert may ask for; other combinations appear when they happen.
_USUAL_ENDINGS = {
    (Phase.ACCEPT, Side.LOCAL): (Cause.NOT_ALLOWED, Cause.LIMIT),
    (Phase.REQUEST, Side.CLIENT): (
        Cause.NOT_TPKT,
        Cause.PRECONNECTION_BLOB,
        Cause.TPKT_LENGTH,
        Cause.LENGTH_INDICATOR,
        Cause.NOT_CONNECTION_REQUEST,
        Cause.PROXY_HEADER_MISSING,
        Cause.PROXY_HEADER_INVALID,
        Cause.PROXY_HEADER_REFUSED,
        Cause.CLOSED_BEFORE_REQUEST,
        Cause.CLOSED,
        Cause.RESET,
        Cause.TIMEOUT,
    ),
    (Phase.REQUEST, Side.LOCAL): (Cause.TLS_REQUIRED,),
    (Phase.PLACE, Side.LOCAL): (
        Cause.TOKEN_UNKNOWN_HOST,
        Cause.TOKEN_HOST_DOWN,
        Cause.DESTINATION_UNKNOWN_HOST,
        Cause.DESTINATION_HOST_DOWN,
        Cause.HOST_FULL,
    ),
    (Phase.PLACE, Side.SERVER): (Cause.NO_HOST,),
    (Phase.RELAY, Side.CLIENT): (Cause.CLOSED, Cause.RESET, Cause.TIMEOUT),
    (Phase.RELAY, Side.SERVER): (Cause.CLOSED, Cause.RESET, Cause.TIMEOUT),
    (Phase.RELAY, Side.LOCAL): (Cause.IDLE, Cause.RELAY_DIED, Cause.STOPPED),
}
# A host whose connections are short is a state, and so a live series.
_SIGN_COUNTERS = {
    Sign.CERTIFICATE_MISMATCH: "suspected_certificate_mismatch_total",
    Sign.REDIRECT_LOOP: "redirect_loops_total",
}
_HOST_CAUSES = (Cause.REFUSED, Cause.UNREACHABLE, Cause.TIMEOUT, Cause.RESET, Cause.CLOSED)
_SELECTED = ("rdp", "ssl", "hybrid", "rdstls", "hybrid_ex", "rdsaad")
ANSWERS = frozenset((*_SELECTED, *(f"failure_{code}" for code in range(1, 7)), "failure", OTHER))


def _was_judged_here(record: ConnectionRecord) -> bool:
    """Whether this front decided about the client: not refused before, nor taken over."""
    return record.phase not in (Phase.ACCEPT, Phase.REQUEST) and record.request_s is not None


class Metrics:
    """Observer of the path, and the text that Prometheus scrapes."""

    def __init__(
        self, *, started_at: float, clock: Callable[[], float] = time.perf_counter
    ) -> None:
        """`started_at` is the start of the process in seconds since the epoch; `clock` tells how
        long a scrape has been at work, in seconds."""
        self._started_at = started_at
        self._clock = clock
        self._writing = asyncio.Lock()
        self._sets = LabelSets(clock)
        self._ended_bytes: dict[tuple[str, str], Carried] = {}
        self._listeners: set[str] = set()
        self._bound: set[tuple[str, str]] = set()  # hosts, by pool and name
        self._live = Tally[str]()  # connections by listener
        for event in StoreEvent:
            self._sets.bind("affinity_events_total", event)

    def follow(self, listeners: Iterable[ListenerSettings], pools: Iterable[Pool]) -> None:
        """Show these from now on, hosts included, and what is not there a little while longer.

        Series that stay keep their values. Pools and hosts have gone when they are forgotten, a
        listener that was removed when its last connection ends.
        """
        listeners, pools = list(listeners), list(pools)
        self._listeners = {listener.name for listener in listeners}
        self._sets.follow(
            [
                *(("listener", name) for name in self._listeners | self._live.keys()),
                *(("alias", it.name, alias) for it in listeners for alias in it.collections),
                *(("pool", pool.name) for pool in pools),
                *(("host", pool.name, host.name) for pool in pools for host in pool.hosts),
            ]
        )
        for listener in listeners:
            self._bind_listener(listener)
        for pool in pools:
            self._bind_pool(pool)
        self._let_go()

    # What happens on the path.

    def connection_accepted(self, record: ConnectionRecord) -> None:
        self._live[record.listener] += 1
        self._sets.come(("listener", record.listener))
        self._count("connections_accepted_total", record.listener)
        if record.phase is Phase.RELAY:  # taken over from a front before this one, which counted
            self._bytes_of(record).add(-record.bytes_up, -record.bytes_down)

    def connection_placed(self, record: ConnectionRecord) -> None:
        pool = record.pool or OTHER
        self._count("connections_placed_total", record.listener, pool, record.reason or OTHER)
        self._count_request(record)
        if record.repin_cause is not None:
            self._count("repinned_total", pool, record.repin_cause)
        answer = record.answer if record.answer in ANSWERS else OTHER
        self._count("negotiations_total", pool, answer or OTHER)
        self._observe("placement_seconds", record.place_s, pool)
        self._observe("connect_seconds", record.connect_s, pool)
        self._observe("answer_seconds", record.answer_s, pool)

    def connection_ended(self, record: ConnectionRecord) -> None:
        ending = record.ending
        if ending is None:
            return
        self._count(
            "connections_ended_total", record.listener, ending.phase, ending.side, ending.cause
        )
        if ending.phase is Phase.RELAY:
            self._observe("connection_duration_seconds", record.duration_s, record.pool or OTHER)
            self._bytes_of(record).add(record.bytes_up, record.bytes_down)
        if _was_judged_here(record) and record.relay is None:  # and so was not placed
            self._count_request(record)
        self._live[record.listener] -= 1
        if not self._live[record.listener]:
            del self._live[record.listener]
            if record.listener not in self._listeners:
                self._sets.leave(("listener", record.listener))

    def host_answered(self, pool: str, host: str) -> None:
        """Nothing to count: `connections_placed_total` has it."""

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        self._count("host_failures_total", pool, host, cause)

    def pin_moved(self, pool: str, cause: str) -> None:
        self._count("pins_moved_total", pool, cause)

    def pin_disagreed(self, pool: str) -> None:
        self._count("affinity_disagreements_total", pool)

    def store_failed(self) -> None:
        self._count("affinity_store_failures_total")

    def sign_seen(
        self, sign: Sign, record: ConnectionRecord, _evidence: Mapping[str, object]
    ) -> None:
        if sign in _SIGN_COUNTERS:
            self._count(_SIGN_COUNTERS[sign], record.pool or OTHER, record.host or OTHER)

    def store_event(self, event: StoreEvent) -> None:
        """Something befell the affinity table."""
        self._count("affinity_events_total", event)

    async def watch_loop(self) -> None:
        """Measure the event loop's lag until cancelled."""
        loop = asyncio.get_running_loop()
        while True:
            due = loop.time() + _LAG_INTERVAL_S
            await asyncio.sleep(_LAG_INTERVAL_S)
            self._observe("event_loop_lag_seconds", max(0.0, loop.time() - due))

    # What a scrape reads.

    async def render(self, sources: Sources) -> bytes:
        """All series in Prometheus' text format.

        Who asks meanwhile waits: so the loop's turns are as short with four scrapers as with one.
        """
        async with self._writing:
            page = Exposition(Slices(self._clock))
            while self._let_go():
                await page.slices.turn()
            for key, child in self._sets.all():
                _write(page, key, child)
                await page.slices.turn()
            await live.write(page, sources, self._ended_bytes, self._started_at)
            return await page.text()

    def counts(self, name: str) -> list[tuple[dict[str, str], float]]:
        """What a counter of the table stands at, for each set of its labels."""
        return self._sets.counts(name)

    # Every label set that the configuration allows is made at start, so that zeros are seen.

    def _bind_listener(self, listener: ListenerSettings) -> None:
        self._sets.bind("connections_accepted_total", listener.name)
        for (phase, side), causes in _USUAL_ENDINGS.items():
            for cause in causes:
                self._sets.bind("connections_ended_total", listener.name, phase, side, cause)
        for fate in TokenFate:
            self._sets.bind("tokens_total", listener.name, fate)
        for alias in (*listener.collections, OTHER):
            self._sets.bind("collections_total", listener.name, alias)
        for pool_name in listener.pools:
            for reason in _PLACING:
                self._sets.bind("connections_placed_total", listener.name, pool_name, reason)

    def _bind_pool(self, pool: Pool) -> None:
        self._sets.bind("affinity_disagreements_total", pool.name)
        for cause in RepinCause:
            self._sets.bind("repinned_total", pool.name, cause)
        for answer in sorted(ANSWERS):
            self._sets.bind("negotiations_total", pool.name, answer)
        for name, series in SERIES.items():
            if series.kind == "histogram" and series.labels:
                self._sets.bind(name, pool.name)
        for host in pool.hosts:
            if (pool.name, host.name) in self._bound:
                continue
            self._bound.add((pool.name, host.name))
            self._bytes_at(pool.name, host.name)
            for failure in _HOST_CAUSES:
                self._sets.bind("host_failures_total", pool.name, host.name, failure)
            for counter in _SIGN_COUNTERS.values():
                self._sets.bind(counter, pool.name, host.name)

    def _let_go(self) -> bool:
        """Forget some of those who have gone long ago; whether there were any."""
        gone = self._sets.let_go()
        for kind, *names in gone:
            if kind == "host":
                self._ended_bytes.pop((names[0], names[1]), None)
                self._bound.discard((names[0], names[1]))
        return bool(gone)

    def _bytes_of(self, record: ConnectionRecord) -> Carried:
        return self._bytes_at(record.pool or OTHER, record.host or OTHER)

    def _bytes_at(self, pool: str, host: str) -> Carried:
        if OTHER not in (pool, host):
            self._sets.own(("host", pool, host))
        return self._ended_bytes.setdefault((pool, host), Carried())

    def _count_request(self, record: ConnectionRecord) -> None:
        """What the client asked for, once it was judged: placed or not."""
        self._count("tokens_total", record.listener, record.fate)
        if record.collection is not None:
            alias = record.collection_alias or OTHER
            self._count("collections_total", record.listener, alias)

    def _count(self, name: str, *labels: str) -> None:
        child = self._sets.bind(name, *labels)
        assert isinstance(child, Counter)
        child.inc()

    def _observe(self, name: str, seconds: float | None, *labels: str) -> None:
        if seconds is not None:
            child = self._sets.bind(name, *labels)
            assert isinstance(child, Histogram)
            child.observe(seconds)


def _write(page: Exposition, key: tuple[str, ...], child: Counter | Histogram) -> None:
    name, *labels = key
    for metric in child.collect():
        for sample in metric.samples:
            suffix = sample.name.removeprefix(PREFIX + name)
            page.add(name, tuple(labels), sample.value, suffix, sample.labels.get("le"))
