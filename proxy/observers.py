"""Observers: one Observer that tells several, as the front joins logs, metrics and health."""

from __future__ import annotations

from collections.abc import Mapping

from proxy.control.health import HealthMonitor
from proxy.errors import Cause
from proxy.routing.signs import Sign
from proxy.server.record import ConnectionRecord, Observer


class Observers:
    """Tells everything to each of `listeners`, and to health what clients meet at hosts."""

    def __init__(self, health: HealthMonitor, *listeners: Observer) -> None:
        self._health = health
        self._listeners = listeners

    def connection_accepted(self, record: ConnectionRecord) -> None:
        for each in self._listeners:
            each.connection_accepted(record)

    def connection_placed(self, record: ConnectionRecord) -> None:
        for each in self._listeners:
            each.connection_placed(record)

    def connection_ended(self, record: ConnectionRecord) -> None:
        for each in self._listeners:
            each.connection_ended(record)

    def host_answered(self, pool: str, host: str) -> None:
        for each in self._listeners:
            each.host_answered(pool, host)
        self._health.host_answered(pool, host)

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        for each in self._listeners:
            each.host_failed(pool, host, cause)
        self._health.host_failed(pool, host, cause)

    def pin_moved(self, pool: str, cause: str) -> None:
        for each in self._listeners:
            each.pin_moved(pool, cause)

    def pin_disagreed(self, pool: str) -> None:
        for each in self._listeners:
            each.pin_disagreed(pool)

    def store_failed(self) -> None:
        for each in self._listeners:
            each.store_failed()

    def sign_seen(
        self, sign: Sign, record: ConnectionRecord, evidence: Mapping[str, object]
    ) -> None:
        for each in self._listeners:
            each.sign_seen(sign, record, evidence)
