"""A proxy's live values and their scrape, as the tests of metrics need them."""

from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families

from proxy.control.exposition import Sample
from proxy.control.live import RelayState, Sources
from proxy.control.metrics import Metrics
from proxy.control.series import PREFIX
from proxy.errors import StoreError
from proxy.routing.pool import Host, Pool
from proxy.server.record import ConnectionRecord
from tests.unit.control.farm import farm

Samples = dict[str, float]


class Clock:
    """Goes on by a millisecond whenever a scrape looks at it: whoever else runs has a turn then."""

    now = 0.0

    def __call__(self) -> float:
        self.now += 0.001
        return self.now


class House:
    """A proxy's live values, as the app would offer them."""

    def __init__(self) -> None:
        settings = farm()
        self.pools = [Pool(pool) for pool in settings.pools]
        self.hosts: list[Host] = [host for pool in self.pools for host in pool.hosts]
        self.connections: list[ConnectionRecord] = []
        self.relays = [RelayState(0, True, 3), RelayState(1, False, 0)]
        self.store_up = True
        self.held = 0
        self.pins_fail = False
        self.clock = Clock()
        self.metrics = Metrics(started_at=1_234.5, clock=self.clock)
        self.metrics.follow(settings.listeners, self.pools)
        self.sources = Sources(
            hosts=lambda: self.hosts,
            connections=lambda: self.connections,
            relays=lambda: self.relays,
            store_up=lambda: self.store_up,
            pins=self._pins,
            held=lambda: self.held,
            shared=lambda: 0,
            host_parts=(lambda host: [Sample("host_short_lived", (host.pool, host.name), 0.0)],),
        )

    async def _pins(self) -> int:
        if self.pins_fail:
            raise StoreError("away")
        return 42

    async def scrape(self) -> Samples:
        """Every sample by its text, as in `name{label="value"}` with the labels in order."""
        text = (await self.metrics.render(self.sources)).decode()
        return {
            _name(sample.name, sample.labels): sample.value
            for family in text_string_to_metric_families(text)
            for sample in family.samples
        }


def _name(name: str, labels: dict[str, str]) -> str:
    inner = ",".join(f"{key}={value}" for key, value in sorted(labels.items()))
    short = name.removeprefix(PREFIX)
    return f"{short}{{{inner}}}" if inner else short


def changes(before: Samples, after: Samples) -> Samples:
    """What differs between two scrapes, without what the machine changes by itself."""
    return {
        name: value - before.get(name, 0.0)
        for name, value in after.items()
        if value != before.get(name, 0.0) and not name.startswith("open_files")
    }
