"""What hosts answer, and who is to blame when they do not. (Walks over hosts: test_placement.)"""

from __future__ import annotations

import asyncio
import errno
import socket

import pytest

from proxy import sockets
from proxy.affinity.sqlite import SqliteStore
from proxy.errors import ClientError, LimitError
from proxy.server.dial import answer_of
from proxy.wire.x224 import (
    FailureCode,
    NegotiationFailure,
    NegotiationResponse,
    encode_connection_confirm,
)
from tests.unit.server.stage import Clock, Stage


@pytest.mark.parametrize(
    ("confirm", "word"),
    [
        (encode_connection_confirm(), "rdp"),
        (encode_connection_confirm(NegotiationResponse(0, 0)), "rdp"),
        (encode_connection_confirm(NegotiationResponse(0, 1)), "ssl"),
        (encode_connection_confirm(NegotiationResponse(0, 8)), "hybrid_ex"),
        (encode_connection_confirm(NegotiationResponse(0, 1 << 30)), "other"),
        (
            encode_connection_confirm(NegotiationFailure(FailureCode.HYBRID_REQUIRED_BY_SERVER)),
            "failure_5",
        ),
        (encode_connection_confirm(NegotiationFailure(99)), "failure"),
        (encode_connection_confirm()[:7], None),
        (b"SSH-2.0-OpenSSH_9.6\r\n", None),
    ],
)
def test_an_answer_is_a_bounded_word(confirm: bytes, word: str | None) -> None:
    assert answer_of(confirm) == word


async def test_a_want_of_our_own_blames_no_host(monkeypatch: pytest.MonkeyPatch) -> None:
    store = await SqliteStore.open(":memory:", max_pins=10, now=Clock())
    farm = Stage(["refuse"], store)
    visit, far = farm.visit()

    async def no_ports(*_: object) -> socket.socket:
        raise OSError(errno.EADDRNOTAVAIL, "no ports left")

    monkeypatch.setattr(sockets, "connect", no_ports)
    with visit.client, far, pytest.raises(LimitError):
        await farm.placer.dialler.dial(visit, farm.pool.hosts[0])
    farm.hosts[0].close()
    await store.close()


async def test_a_pause_ends_early_when_something_happened() -> None:
    store = await SqliteStore.open(":memory:", max_pins=10, now=Clock())
    farm = Stage([], store, hosts=[{"name": "a", "address": "127.0.0.1:1"}])
    visit, far = farm.visit()
    happened = asyncio.Event()
    happened.set()
    with visit.client, far:
        await farm.placer.dialler.pause(visit, 3600, happened)
    far.close()
    visit, far = farm.visit()
    far.close()
    with visit.client, pytest.raises(ClientError):
        await farm.placer.dialler.pause(visit, 0.01)
    await store.close()
