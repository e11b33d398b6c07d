"""A real relay process between real sockets: bytes, ends, resets, time-outs."""

from __future__ import annotations

import asyncio
import hashlib
import os
import random
import signal
import socket
from pathlib import Path

import pytest

from proxy.errors import Cause, Side
from proxy.relay.hand_off import RelayEnding
from tests.integration.relay_storm import Storm
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import (
    SMALL_BUFFER,
    Recorder,
    RelayUnderTest,
    close_by_reset,
    hand_over,
    open_fds,
    read_to_end,
    resident_bytes,
    until,
)


async def in_thread(sock: socket.socket) -> bytes:
    return await asyncio.to_thread(read_to_end, sock)


async def test_bytes_arrive_whole_in_both_directions(relay: RelayUnderTest) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1)
    up, down = random.Random(1).randbytes(7_000_003), random.Random(2).randbytes(5_000_011)

    def send(sock: socket.socket, data: bytes) -> None:
        sock.sendall(data)
        sock.shutdown(socket.SHUT_WR)

    got_up, got_down, _, _ = await asyncio.gather(
        in_thread(server),
        in_thread(client),
        asyncio.to_thread(send, client, up),
        asyncio.to_thread(send, server, down),
    )
    assert hashlib.sha256(got_up).digest() == hashlib.sha256(up).digest()
    assert hashlib.sha256(got_down).digest() == hashlib.sha256(down).digest()
    await until(lambda: 1 in seen.endings)
    assert (seen.endings[1].bytes_up, seen.endings[1].bytes_down) == (len(up), len(down))
    assert seen.endings[1].cause is Cause.CLOSED
    client.close()
    server.close()
    pool.stop()


async def test_a_slow_reader_holds_the_sender_back_and_not_the_relays_memory(
    relay: RelayUnderTest,
) -> None:
    pool = await relay.pool(Recorder())
    client, server = await hand_over(pool, 1, receive_buffer=SMALL_BUFFER)
    before = resident_bytes(relay.pid)
    sent = await fill(server, relay)
    assert resident_bytes(relay.pid) - before < 2_000_000
    server.setblocking(True)
    server.settimeout(PATIENCE_S)
    server.shutdown(socket.SHUT_WR)
    assert len(await in_thread(client)) == sent
    client.close()
    server.close()
    pool.stop()


@pytest.mark.parametrize("first", [Side.CLIENT, Side.SERVER])
async def test_after_a_half_close_the_other_direction_goes_on(
    relay: RelayUnderTest, first: Side
) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1)
    asker, replier = (client, server) if first is Side.CLIENT else (server, client)
    asker.sendall(b"question")
    asker.shutdown(socket.SHUT_WR)
    assert read_to_end(replier) == b"question"
    replier.sendall(b"answer" * 100_000)
    replier.close()
    assert await in_thread(asker) == b"answer" * 100_000
    asker.close()
    await until(lambda: 1 in seen.endings)
    assert (seen.endings[1].side, seen.endings[1].cause) == (first, Cause.CLOSED)
    pool.stop()


@pytest.mark.parametrize("first", [Side.CLIENT, Side.SERVER])
async def test_a_reset_is_passed_on_after_the_bytes_before_it(
    relay: RelayUnderTest, first: Side
) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1)
    breaker, other = (client, server) if first is Side.CLIENT else (server, client)
    breaker.sendall(b"last words")
    close_by_reset(breaker)
    assert other.recv(100) == b"last words"
    with pytest.raises(ConnectionResetError):
        other.recv(100)
    other.close()
    await until(lambda: 1 in seen.endings)
    assert (seen.endings[1].side, seen.endings[1].cause) == (first, Cause.RESET)
    pool.stop()


async def test_last_words_arrive_even_when_the_other_side_was_writing(
    relay: RelayUnderTest,
) -> None:
    """The write that fails must not make the relay forget what the host said before it left."""
    seen = Recorder()
    pool = await relay.pool(seen)
    for conn_id in range(50):
        client, server = await hand_over(pool, conn_id)
        os.kill(relay.pid, signal.SIGSTOP)  # both events are to be in one batch
        client.sendall(b"input")
        server.sendall(b"disconnect reason")
        close_by_reset(server)
        os.kill(relay.pid, signal.SIGCONT)
        assert client.recv(100) == b"disconnect reason"
        with pytest.raises(ConnectionResetError):
            client.recv(100)
        client.close()
    await until(lambda: len(seen.endings) == 50)
    assert {(e.side, e.cause) for e in seen.endings.values()} == {(Side.SERVER, Cause.RESET)}
    pool.stop()


async def test_a_reset_while_the_reader_is_slow_loses_nothing_and_burns_no_processor(
    relay: RelayUnderTest,
) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1, receive_buffer=SMALL_BUFFER)
    await fill(server, relay)
    close_by_reset(server)
    before = cpu_ticks(relay.pid)
    await asyncio.sleep(0.5)
    assert cpu_ticks(relay.pid) - before < 20  # of 50 in half a second
    parts: list[bytes] = []

    def read() -> None:
        while part := client.recv(1 << 20):
            parts.append(part)

    with pytest.raises(ConnectionResetError):
        await asyncio.to_thread(read)
    assert sum(map(len, parts)) > 100_000  # what a receiver took before the reset
    client.close()
    await until(lambda: 1 in seen.endings)
    pool.stop()


async def fill(sock: socket.socket, relay: RelayUnderTest) -> int:
    """Send until nobody on the way takes any more and the relay sleeps; how many bytes."""
    sock.setblocking(False)
    sent, refused = 0, 0
    while refused < 10:
        try:
            sent += sock.send(bytes(1 << 20))
            refused = 0
        except BlockingIOError:
            refused += state_of(relay.pid)[0] == "S"
            await asyncio.sleep(0.02)
    return sent


def cpu_ticks(pid: int) -> int:
    return sum(map(int, state_of(pid)[11:13]))


def state_of(pid: int) -> list[str]:
    """From the third field on, the state, as proc(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


async def test_an_idle_connection_ends_and_a_busy_one_does_not(relay: RelayUnderTest) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    busy_client, busy_server = await hand_over(pool, 2, idle_s=1.2)
    busy_client.sendall(b"round and round")
    # Its far ends are a connection too, so it is busy by itself, however busy the machine is.
    await pool.hand_off(
        3, busy_server, busy_client, bytes_up=0, idle_s=None, half_close_s=5, record=b""
    )
    client, server = await hand_over(pool, 1, idle_s=1.2)
    client.sendall(b"x")
    assert server.recv(1) == b"x"
    await until(lambda: 1 in seen.endings)
    assert seen.endings == {1: RelayEnding(Side.LOCAL, Cause.IDLE, 1, 0)}
    assert (client.recv(1), server.recv(1)) == (b"", b"")
    client.close()
    server.close()
    pool.close(3, Cause.STOPPED)
    await until(lambda: len(seen.endings) == 3)
    pool.stop()


async def test_a_half_closed_connection_ends_when_the_other_side_stays_silent(
    relay: RelayUnderTest,
) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1, half_close_s=0.3)
    server.shutdown(socket.SHUT_WR)
    assert client.recv(1) == b""
    await until(lambda: 1 in seen.endings)
    assert (seen.endings[1].side, seen.endings[1].cause) == (Side.LOCAL, Cause.HALF_CLOSE)
    assert server.recv(1) == b""
    client.close()
    server.close()
    pool.stop()


async def test_the_front_can_close_a_connection(relay: RelayUnderTest) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    client, server = await hand_over(pool, 1)
    pool.close(1, Cause.STOPPED)
    assert (client.recv(1), server.recv(1)) == (b"", b"")
    await until(lambda: 1 in seen.endings)
    assert seen.endings[1] == RelayEnding(Side.LOCAL, Cause.STOPPED, 0, 0)
    client.close()
    server.close()
    pool.stop()


async def test_after_many_connections_no_descriptor_is_left(relay: RelayUnderTest) -> None:
    seen = Recorder()
    pool = await relay.pool(seen)
    before = open_fds(relay.pid)
    chance = random.Random(3)
    conn_id = 0
    for _ in range(8):
        far = []
        for _ in range(25):
            conn_id += 1
            far.append(await hand_over(pool, conn_id))
        for client, server in far:
            client.sendall(b"up")
            server.sendall(b"down")
            leave = [client, server]
            chance.shuffle(leave)
            for sock in leave:
                if chance.random() < 0.5:
                    close_by_reset(sock)
                else:
                    sock.close()
    await until(lambda: len(seen.endings) == 200)
    await until(lambda: open_fds(relay.pid) == before)
    assert pool.connections == {0: 0}
    assert all(
        ending.side in {Side.CLIENT, Side.SERVER} and ending.cause in {Cause.CLOSED, Cause.RESET}
        for ending in seen.endings.values()
    )
    pool.stop()


async def test_in_a_storm_nothing_is_mixed_up_or_lost_and_nobody_waits_for_ever(
    relay: RelayUnderTest,
) -> None:
    storm = Storm(relay)
    await storm.run(2_500)
    assert storm.faults == []


async def test_after_bulk_an_idle_connection_owns_no_pipe(relay: RelayUnderTest) -> None:
    pool = await relay.pool(Recorder())
    before = open_fds(relay.pid)
    client, server = await hand_over(pool, 1)
    data = random.Random(5).randbytes(20_000_000)
    sending = asyncio.create_task(asyncio.to_thread(server.sendall, data))
    got = bytearray()
    pipes_seen = 0
    while len(got) < len(data):
        got += await asyncio.to_thread(client.recv, 1 << 20)
        pipes_seen = max(pipes_seen, open_fds(relay.pid) - before - 2)
    await sending
    assert got == data
    assert pipes_seen > 0
    await until(lambda: open_fds(relay.pid) == before + 2)
    client.close()
    server.close()
    pool.stop()
