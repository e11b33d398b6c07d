"""A world for the health monitor's tests: its clock and its probes are in the test's hands."""

from __future__ import annotations

import random
from collections.abc import Callable

from proxy.address import Address
from proxy.control.health import HealthMonitor, HostHealth
from proxy.control.probe import ProbeResult
from proxy.errors import Cause
from proxy.routing.pool import Host, Pool
from proxy.settings import HealthCheck, HealthSettings, HostSettings, PoolSettings

PASSED = ProbeResult(True, None, "", 0.01)
REFUSED = ProbeResult(False, Cause.REFUSED, "", 0.01)
SILENT = ProbeResult(False, Cause.TIMEOUT, "", 3.0)
OWN_WANT = ProbeResult(False, Cause.INTERNAL, "too many open files", 0.0)

Answer = Callable[[Host], ProbeResult]


def always(result: ProbeResult) -> Answer:
    return lambda _: result


def pool_of(*addresses: str, health: HealthSettings | None = None, name: str = "desktops") -> Pool:
    hosts = tuple(
        HostSettings(name=f"h{number}", address=Address.parse(text, 3389))
        for number, text in enumerate(addresses)
    )
    return Pool(PoolSettings(name=name, hosts=hosts, health=health or HealthSettings()))


class World:
    """A monitor whose time passes only in `until`, and whose probes take no time."""

    def __init__(self, *pools: Pool) -> None:
        self.now = 1000.0
        self.probes: list[tuple[float, Host]] = []
        self.checks: list[HealthCheck] = []
        self.turns: list[tuple[float, str, bool, Cause | None]] = []
        self.details: list[str | None] = []
        self.checked: list[tuple[str, ProbeResult]] = []
        self.monitor = HealthMonitor(
            pools, self._turned, self._checked, rng=random.Random(7), clock=lambda: self.now
        )

    def until(self, end: float, answer: Answer) -> None:
        """Let time pass until `end`, each probe finding what `answer` says."""
        while True:
            for watched in self.monitor.begin():
                self.probes.append((self.now, watched.host))
                self.checks.append(self.monitor.check_now(watched))
                self.monitor.finish(watched, answer(watched.host))
            rest_s = self.monitor.rest_s()
            if self.now + rest_s > end:
                self.now = end
                return
            self.now += rest_s

    def times(self, host: Host) -> list[float]:
        return [time for time, probed in self.probes if probed is host]

    def health(self, host: Host) -> HostHealth:
        return next(
            health
            for health in self.monitor.snapshot()
            if (health.pool, health.host) == (host.pool, host.name)
        )

    def _turned(self, host: Host, up: bool, cause: Cause | None, detail: str | None) -> None:
        assert host.up is up
        self.turns.append((self.now, host.name, up, cause))
        self.details.append(detail)

    def _checked(self, host: Host, result: ProbeResult) -> None:
        self.checked.append((host.name, result))
