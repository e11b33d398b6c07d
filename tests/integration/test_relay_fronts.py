"""A real relay process and its fronts and parents, which come, die and are replaced."""

from __future__ import annotations

import asyncio
import resource
import signal
import threading
import time

import pytest

from proxy import channel
from proxy.errors import Cause, LimitError, Side
from proxy.relay import contract
from proxy.relay.hand_off import RelayEnding, RelayPool
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import (
    Recorder,
    RelayUnderTest,
    hand_over,
    open_fds,
    tcp_pair,
    until,
)


async def test_progress_is_told_of_connections_that_changed_only(relay: RelayUnderTest) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1)
    silent_client, silent_server = await hand_over(pool, 2)
    began = time.monotonic()
    for _ in range(100):
        client.sendall(b"12345")
        server.recv(100)
    await until(lambda: seen.progress.get(1) == (500, 0))
    assert 2 not in seen.progress
    assert seen.progress_count <= time.monotonic() - began + 2, "once a second at most"
    for sock in (client, server, silent_client, silent_server):
        sock.close()
    pool.stop()


async def test_a_new_front_learns_what_lives_and_what_ended_meanwhile(
    relay: RelayUnderTest,
) -> None:
    first = await relay.pool(Recorder())
    far = {conn_id: await hand_over(first, conn_id) for conn_id in range(1, 201)}
    for client, server in far.values():
        client.sendall(b"before")
        assert server.recv(100) == b"before"
    first.stop()  # the first front is dead

    for conn_id in range(1, 51):
        client, server = far.pop(conn_id)
        client.close()
        assert server.recv(100) == b""
        server.close()
    for client, server in far.values():
        server.sendall(b"meanwhile")
        assert client.recv(100) == b"meanwhile"

    seen = Recorder()
    second = await relay.pool(seen)
    assert sorted(seen.rows) == list(range(1, 201))
    for conn_id, row in seen.rows.items():
        assert row.record == b"record %d" % conn_id
        if conn_id <= 50:
            assert row.ending == RelayEnding(Side.CLIENT, Cause.CLOSED, 6, 0)
        else:
            assert (row.ending, row.bytes_up, row.bytes_down) == (None, 6, 9)
    assert second.connections == {0: 150}
    second.stop()

    third_seen = Recorder()
    third = await relay.pool(third_seen)
    assert sorted(third_seen.rows) == list(range(51, 201)), "endings were acknowledged"
    third.close(100, Cause.STOPPED)
    await until(lambda: 100 in third_seen.endings)
    for client, server in far.values():
        client.close()
        server.close()
    await until(lambda: len(third_seen.endings) == 150)
    third.stop()


async def test_an_ending_that_nobody_acknowledged_is_told_again(relay: RelayUnderTest) -> None:
    first = await relay.pool(Recorder())
    client, server = await hand_over(first, 9)
    first.stop()
    deaf = relay.new_front()  # reads, and dies before it accounts
    client.close()
    server.close()
    said: list[contract.ToFront] = []
    deadline = asyncio.get_running_loop().time() + PATIENCE_S
    while not any(isinstance(one, contract.Ended) for one in said):
        assert asyncio.get_running_loop().time() < deadline
        message = channel.receive(deaf)
        if message is None:
            await asyncio.sleep(0.005)
        else:
            said.append(contract.decode_to_front(message.data))
    deaf.close()
    seen = Recorder()
    second = await relay.pool(seen)
    ending = seen.rows[9].ending
    assert ending is not None
    assert ending.cause is Cause.CLOSED
    second.stop()


async def test_what_an_older_front_hands_over_is_told_to_the_newest(relay: RelayUnderTest) -> None:
    old_seen, new_seen = Recorder(), Recorder()
    old = await relay.pool(old_seen)
    new = await relay.pool(new_seen)
    client, server = await hand_over(old, 77)
    await until(lambda: 77 in new_seen.rows)
    client.close()
    server.close()
    await until(lambda: 77 in new_seen.endings)
    assert not old_seen.endings
    old.stop()
    new.stop()


async def test_connections_of_a_relay_that_dies_are_lost_and_the_next_one_goes_elsewhere() -> None:
    relays = [RelayUnderTest(), RelayUnderTest()]
    seen = Recorder()
    pool = RelayPool(seen, asyncio.get_running_loop(), timeout_s=1.0)
    for index, relay in enumerate(relays):
        pool.attach(index, relay.pid, relay.new_front())
    await pool.ready(2, PATIENCE_S)
    far = {conn_id: await hand_over(pool, conn_id) for conn_id in range(10)}
    assert pool.connections == {0: 5, 1: 5}, "the least loaded takes the next one"

    relays[0].process.kill()
    relays[0].process.wait(PATIENCE_S)
    far[10] = await hand_over(pool, 10)  # the loop had no chance yet to hear of the death
    assert pool.connections[1] == 6
    await until(lambda: len(seen.lost) == 5)
    for conn_id, (client, server) in far.items():
        if conn_id not in seen.lost:
            client.sendall(b"alive")
            assert server.recv(100) == b"alive"

    relays[1].process.kill()
    relays[1].process.wait(PATIENCE_S)
    await until(lambda: len(seen.lost) == 11)
    client, near_client = tcp_pair()
    server, near_server = tcp_pair()
    with pytest.raises(LimitError):
        await pool.hand_off(
            11, near_client, near_server, bytes_up=0, idle_s=None, half_close_s=1, record=b""
        )
    assert near_client.fileno() >= 0, "the sockets are still the caller's"
    for sock in (client, near_client, server, near_server):
        sock.close()
    for pair in far.values():
        pair[0].close()
        pair[1].close()
    for relay in relays:
        relay.control.close()
    pool.stop()


async def test_without_parent_and_front_the_relay_carries_on_to_its_last_connection(
    relay: RelayUnderTest,
) -> None:
    pool = await relay.pool(Recorder())
    client, server = await hand_over(pool, 1)
    relay.parent_dies()
    pool.stop()
    relay.process.send_signal(signal.SIGTERM)
    client.sendall(b"still here")
    assert server.recv(100) == b"still here"
    assert relay.process.poll() is None
    client.close()
    server.close()
    assert relay.process.wait(PATIENCE_S) == 0


async def test_a_retired_relay_ends_after_its_last_connection_is_accounted(
    relay: RelayUnderTest,
) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1)
    pool.retire(0)
    client.sendall(b"still here")
    assert server.recv(100) == b"still here"
    client.close()
    server.close()
    assert await asyncio.to_thread(relay.process.wait, PATIENCE_S) == 0
    await until(lambda: 1 in seen.endings)
    assert not seen.lost
    pool.stop()


async def test_stop_ends_the_relay_with_its_connections(relay: RelayUnderTest) -> None:
    pool = await relay.pool(Recorder())
    client, server = await hand_over(pool, 1)
    pool.stop()
    assert await asyncio.to_thread(relay.stop) == 0
    assert (client.recv(1), server.recv(1)) == (b"", b"")
    client.close()
    server.close()


async def test_a_full_queue_makes_hand_offs_wait_and_loses_none(relay: RelayUnderTest) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    relay.process.send_signal(signal.SIGSTOP)  # takes nothing for a while
    resume = threading.Timer(0.5, relay.process.send_signal, [signal.SIGCONT])
    resume.start()
    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(hand_over(pool, conn_id)) for conn_id in range(300)]
    resume.join()
    for task in tasks:
        client, server = task.result()
        client.sendall(b"here")
        assert server.recv(10) == b"here"
        client.close()
        server.close()
    await until(lambda: len(seen.endings) == 300)
    pool.stop()


async def test_a_relay_without_room_for_descriptors_accounts_for_the_connection(
    relay: RelayUnderTest,
) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    room = open_fds(relay.pid)  # as many as are open: none for a newcomer
    resource.prlimit(relay.pid, resource.RLIMIT_NOFILE, (room, room))
    client, server = await hand_over(pool, 5)
    await until(lambda: 5 in seen.endings)
    assert seen.endings[5] == RelayEnding(Side.LOCAL, Cause.LIMIT, 0, 0)
    assert (client.recv(1), server.recv(1)) == (b"", b"")
    client.close()
    server.close()
    pool.stop()
