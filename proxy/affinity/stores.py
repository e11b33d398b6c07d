"""STORES: the affinity stores that are built in, by the name that the configuration uses.

A new store is one module that keeps the contract of `proxy.affinity.store`, and one line here; the
contract tests then run over it.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping

from proxy.affinity.sqlite import SqliteStore
from proxy.affinity.store import AffinityStore, OnEvent, ignore_event
from proxy.errors import StoreError
from proxy.settings import AffinitySettings, StoreKind, state_path

Opener = Callable[[AffinitySettings, Callable[[], float], OnEvent], Awaitable[AffinityStore]]


def _open_sqlite(
    settings: AffinitySettings, now: Callable[[], float], on_event: OnEvent
) -> Awaitable[SqliteStore]:
    path = str(state_path(settings.path))
    return SqliteStore.open(path, max_pins=settings.max_pins, now=now, on_event=on_event)


def _open_redis(
    settings: AffinitySettings, _now: Callable[[], float], on_event: OnEvent
) -> Awaitable[AffinityStore]:
    from proxy.affinity.redis import RedisStore  # TLS and all: only where it is wanted

    assert settings.url is not None
    return RedisStore.open(settings.url, on_event=on_event)


STORES: Mapping[StoreKind, Opener] = {
    StoreKind.SQLITE: _open_sqlite,
    StoreKind.REDIS: _open_redis,
}


async def open_store(
    settings: AffinitySettings, *, now: Callable[[], float], on_event: OnEvent = ignore_event
) -> AffinityStore:
    """Open the store that `settings` names; `now` is wall-clock time in seconds.

    Raises:
        StoreError: it is not built in, or cannot be used; the message says what to do.
    """
    try:
        opener = STORES[settings.store]
    except KeyError:
        raise StoreError(
            f"affinity.store {settings.store} is not built in; there is: {', '.join(STORES)}"
        ) from None
    return await opener(settings, now, on_event)
