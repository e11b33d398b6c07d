from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator
from typing import ClassVar

import pytest

from proxy import channel
from proxy.errors import Cause, LimitError, Side
from proxy.relay import contract
from proxy.relay.contract import RelayEnding, Row
from proxy.relay.hand_off import RelayPool
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import Recorder, tcp_pair, until

CLOSED = RelayEnding(Side.CLIENT, Cause.CLOSED, 7, 8)


class Relay:
    """The relay's end of a channel, in the test's hands."""

    open: ClassVar[list[Relay]] = []

    def __init__(self, pool: RelayPool, index: int, *, ready: bool = True) -> None:
        fronts_end, self.sock = channel.pair()
        self.open.append(self)
        pool.attach(index, 1000 + index, fronts_end)
        if ready:
            self.say(contract.encode_hello(1000 + index))
            self.say(contract.encode_end())

    def say(self, data: bytes) -> None:
        assert channel.send(self.sock, data)

    def heard(self) -> list[contract.ToRelay]:
        """What came since the last time; descriptors are closed."""
        said = []
        while (message := channel.receive(self.sock)) is not None:
            channel.close_all(message.fds)
            said.append(contract.decode_to_relay(message.data))
        return said

    def stuff(self, pool: RelayPool) -> None:
        """Let its queue be full."""
        while channel.send(pool._relays[0].sock, contract.encode_retire()):
            pass


@pytest.fixture
async def seen() -> Recorder:
    return Recorder()


@pytest.fixture
async def pool(seen: Recorder) -> AsyncIterator[RelayPool]:
    pool = RelayPool(seen, asyncio.get_running_loop(), timeout_s=0.2)
    yield pool
    pool.stop()
    while Relay.open:
        Relay.open.pop().sock.close()


async def give(pool: RelayPool, conn_id: int, half_close_s: float = 30.0) -> int:
    """Hand over two sockets of which nobody has the far ends."""
    client_far, client = tcp_pair()
    server_far, server = tcp_pair()
    try:
        return await pool.hand_off(
            conn_id,
            client,
            server,
            bytes_up=47,
            idle_s=None,
            half_close_s=half_close_s,
            record=b"rec",
        )
    finally:
        for sock in (client_far, client, server_far, server):
            sock.close()


async def test_a_hand_off_carries_both_sockets_and_closes_the_local_ones(pool: RelayPool) -> None:
    relay = Relay(pool, 3)
    await pool.ready(1, PATIENCE_S)
    far, client = tcp_pair()
    other_far, server = tcp_pair()
    index = await pool.hand_off(
        9, client, server, bytes_up=47, idle_s=1.5, half_close_s=30.0, record=b"rec"
    )
    assert index == 3
    assert client.fileno() == server.fileno() == -1
    message = channel.receive(relay.sock)
    assert message is not None
    assert contract.decode_to_relay(message.data) == contract.HandOff(9, 1500, 30000, 47, 0, b"rec")
    with socket.socket(fileno=message.fds[0]) as carried:
        carried.sendall(b"the client's")
        assert far.recv(100) == b"the client's"
    channel.close_all(message.fds[1:])
    far.close()
    other_far.close()


async def test_a_relay_is_used_after_it_told_its_rows(pool: RelayPool, seen: Recorder) -> None:
    relay = Relay(pool, 0, ready=False)
    relay.say(contract.encode_hello(1000))
    with pytest.raises(LimitError):
        await give(pool, 1)
    for message in contract.encode_rows([Row(5, 1, 2, b"rec"), Row(6, 7, 8, b"rec", CLOSED)]):
        relay.say(message)
    relay.say(contract.encode_end())
    await pool.ready(1, PATIENCE_S)
    assert seen.ready == [0]
    assert seen.rows == {5: Row(5, 1, 2, b"rec"), 6: Row(6, 7, 8, b"rec", CLOSED)}
    assert pool.connections == {0: 1}
    await until(lambda: contract.Ack((6,)) in relay.heard())
    assert await give(pool, 1) == 0


async def test_ready_gives_up_after_its_time(pool: RelayPool) -> None:
    Relay(pool, 0)
    with pytest.raises(TimeoutError):
        await pool.ready(2, 0.05)


async def test_the_relay_with_the_fewest_connections_takes_the_next(
    pool: RelayPool, seen: Recorder
) -> None:
    first, second = Relay(pool, 0), Relay(pool, 1)
    await pool.ready(2, PATIENCE_S)
    assert sorted([await give(pool, 1), await give(pool, 2)]) == [0, 1]
    busy = await give(pool, 3)
    ending = next(iter(contract.encode_ended([(3, CLOSED)])))
    (first if busy == 0 else second).say(ending)
    await until(lambda: 3 in seen.endings)
    assert pool.connections == {0: 1, 1: 1}


async def test_an_ending_is_acknowledged_after_it_was_accounted_for(
    pool: RelayPool, seen: Recorder
) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    await give(pool, 1)
    relay.heard()
    for message in contract.encode_progress([(1, 5, 6)]):
        relay.say(message)
    for message in contract.encode_ended([(1, CLOSED)]):
        relay.say(message)
    await until(lambda: 1 in seen.endings)
    assert seen.progress == {1: (5, 6)}
    assert seen.endings == {1: CLOSED}
    assert relay.heard() == [contract.Ack((1,))]


async def test_a_full_queue_leads_to_another_relay_and_then_to_a_limit(pool: RelayPool) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    relay.stuff(pool)
    with pytest.raises(LimitError, match="no relay"):
        await give(pool, 1)
    other = Relay(pool, 1)
    await pool.ready(2, PATIENCE_S)
    assert await give(pool, 2) == 1
    assert len(other.heard()) == 1


async def test_a_hand_off_waits_until_a_full_queue_has_room(pool: RelayPool) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    relay.stuff(pool)
    pool._timeout_s = PATIENCE_S
    giving = asyncio.ensure_future(give(pool, 1))
    await asyncio.sleep(0.02)
    assert not giving.done()
    relay.heard()
    assert await giving == 0


async def test_words_for_a_busy_relay_wait_in_order(pool: RelayPool) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    await give(pool, 1)
    await give(pool, 2)
    relay.stuff(pool)
    pool.close(1, Cause.STOPPED)
    pool.close(2, Cause.STOPPED)
    pool.close(99, Cause.STOPPED)
    relay.heard()
    said: list[contract.ToRelay] = []

    def both() -> bool:
        said.extend(relay.heard())
        return len(said) >= 2

    await until(both)
    assert said == [contract.Close(1, Cause.STOPPED), contract.Close(2, Cause.STOPPED)]


async def test_a_relay_that_dies_loses_its_connections_after_its_last_words(
    pool: RelayPool, seen: Recorder
) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    for conn_id in (1, 2, 3):
        await give(pool, conn_id)
    for message in contract.encode_ended([(2, CLOSED)]):
        relay.say(message)
    relay.sock.close()
    await until(lambda: bool(seen.lost))
    assert seen.endings == {2: CLOSED}
    assert seen.lost == [1, 3]
    assert pool.connections == {}


async def test_a_relay_that_dies_in_the_moment_of_a_hand_off_is_passed_over(
    pool: RelayPool, seen: Recorder
) -> None:
    dying, other = Relay(pool, 0), Relay(pool, 1)
    await pool.ready(2, PATIENCE_S)
    dying.sock.close()
    assert await give(pool, 1) == 1
    assert len(other.heard()) == 1
    await until(lambda: set(pool.connections) == {1})
    assert seen.lost == []


async def test_a_retired_relay_gets_nothing_new(pool: RelayPool) -> None:
    retired = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    pool.retire(0)
    assert retired.heard() == [contract.Retire()]
    with pytest.raises(LimitError):
        await give(pool, 1)


async def test_what_a_relay_says_wrongly_is_logged_and_passed_over(
    pool: RelayPool, seen: Recorder, caplog: pytest.LogCaptureFixture
) -> None:
    relay = Relay(pool, 0)
    relay.say(b"\x09nonsense")
    await pool.ready(1, PATIENCE_S)
    await give(pool, 1)
    for message in contract.encode_ended([(1, CLOSED)]):
        relay.say(message)
    await until(lambda: 1 in seen.endings)
    assert "version 9" in caplog.text


async def test_a_half_close_time_out_below_a_millisecond_is_still_one(pool: RelayPool) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    await give(pool, 1, half_close_s=0.0001)
    (hand_off,) = relay.heard()
    assert isinstance(hand_off, contract.HandOff)
    assert (hand_off.idle_ms, hand_off.half_close_ms) == (0, 1)


async def test_after_stop_relays_see_that_the_front_is_gone(pool: RelayPool) -> None:
    relay = Relay(pool, 0)
    await pool.ready(1, PATIENCE_S)
    pool.stop()
    with pytest.raises(EOFError):
        relay.heard()


class TestUpgrade:
    """Two fronts overlap, two relays share an index, two versions meet."""

    async def test_a_front_that_is_not_in_charge_accounts_for_nothing(self, seen: Recorder) -> None:
        pool = RelayPool(seen, asyncio.get_running_loop(), in_charge=False)
        relay = Relay(pool, 0, ready=False)
        relay.say(contract.encode_hello(1000))
        for message in contract.encode_rows([Row(1, 7, 8, b"", CLOSED), Row(2, 0, 0, b"")]):
            relay.say(message)
        relay.say(contract.encode_end())
        for message in contract.encode_ended([(2, CLOSED)]):
            relay.say(message)
        await pool.ready(1, PATIENCE_S)
        await asyncio.sleep(0.05)
        assert list(seen.rows) == [2], "it lives, so it counts"
        assert seen.endings == {}
        assert relay.heard() == []
        pool.take_over()
        assert sorted(seen.rows) == [1, 2]
        assert seen.endings == {2: CLOSED}
        assert relay.heard() == [contract.Ack((1,)), contract.Ack((2,))]
        assert pool.connections == {0: 0}
        pool.stop()
        Relay.open.pop().sock.close()

    async def test_of_two_relays_with_one_index_the_newer_takes_connections(
        self, seen: Recorder
    ) -> None:
        ready: list[int] = []
        pool = RelayPool(seen, asyncio.get_running_loop(), on_ready=ready.append)
        old = Relay(pool, 0)
        await pool.ready(1, PATIENCE_S)
        assert await give(pool, 1) == 0
        new = Relay(pool, 0, ready=False)
        assert await give(pool, 2) == 0
        assert [type(one) for one in old.heard()] == [contract.HandOff, contract.HandOff]
        new.say(contract.encode_hello(1))
        new.say(contract.encode_end())
        await until(lambda: len(ready) == 2)
        assert await give(pool, 3) == 0
        assert old.heard() == [contract.Retire()]
        assert [type(one) for one in new.heard()] == [contract.HandOff]
        assert pool.connections == {0: 3}
        pool.stop()
        for relay in (old, new):
            relay.sock.close()
        Relay.open.clear()

    async def test_a_relay_that_was_retired_before_is_told_again_and_given_nothing(
        self, pool: RelayPool
    ) -> None:
        ours, theirs = channel.pair()
        pool.attach(0, 1, theirs, retired=True)
        await until(lambda: channel.receive(ours) == channel.Message(contract.encode_retire()))
        channel.send(ours, contract.encode_end())
        with pytest.raises(LimitError):
            await give(pool, 1)
        with pytest.raises(TimeoutError):
            await pool.ready(1, 0.05)
        ours.close()

    async def test_before_it_is_in_charge_a_front_retires_nobody(self, seen: Recorder) -> None:
        pool = RelayPool(seen, asyncio.get_running_loop(), in_charge=False)
        ours, theirs = channel.pair()
        pool.attach(0, 1, theirs, retired=True)
        assert channel.receive(ours) is None
        pool.take_over()
        assert channel.receive(ours) == channel.Message(contract.encode_retire())
        pool.stop()
        ours.close()

    async def test_the_end_of_a_relay_is_its_heirs_to_account_for(
        self, pool: RelayPool, seen: Recorder
    ) -> None:
        relay = Relay(pool, 0)
        await pool.ready(1, PATIENCE_S)
        await give(pool, 1)
        pool.step_down()
        relay.sock.close()
        await until(lambda: pool.connections == {})
        assert seen.lost == []

    async def test_a_relay_that_tells_all_again_is_heard_once(
        self, pool: RelayPool, seen: Recorder
    ) -> None:
        """The newer front has died; endings that this one accounted for are no news."""
        relay = Relay(pool, 0)
        await pool.ready(1, PATIENCE_S)
        for conn_id in (1, 2, 3):
            await give(pool, conn_id)
        for message in contract.encode_ended([(1, CLOSED)]):
            relay.say(message)
        await until(lambda: 1 in seen.endings)
        relay.heard()
        told = [Row(1, 7, 8, b"", CLOSED), Row(2, 7, 8, b"", CLOSED), Row(3, 0, 0, b"")]
        relay.say(contract.encode_hello(1000))
        for message in contract.encode_rows(told):
            relay.say(message)
        relay.say(contract.encode_end())
        await until(lambda: 3 in seen.rows)
        assert sorted(seen.rows) == [2, 3]
        assert relay.heard() == [contract.Ack((1, 2))]
        assert pool.connections == {0: 1}

    @pytest.mark.parametrize(("theirs", "spoken"), [(1, 1), (2, 2), (9, 2)])
    async def test_a_relay_is_spoken_to_in_the_older_of_both_versions(
        self, pool: RelayPool, monkeypatch: pytest.MonkeyPatch, theirs: int, spoken: int
    ) -> None:
        monkeypatch.setattr(contract, "VERSION", 2)
        relay = Relay(pool, 0, ready=False)
        relay.say(bytes([theirs]) + contract.encode_hello(1)[1:])
        relay.say(contract.encode_end(1))
        await pool.ready(1, PATIENCE_S)
        await give(pool, 1)
        pool.close(1, Cause.STOPPED)
        for message in contract.encode_ended([(1, CLOSED)], spoken):
            relay.say(message)
        versions = []

        def acknowledged() -> bool:
            while (message := channel.receive(relay.sock)) is not None:
                channel.close_all(message.fds)
                versions.append(contract.version_of(message.data))
            return len(versions) == 3

        await until(acknowledged)
        assert versions == [spoken] * 3
