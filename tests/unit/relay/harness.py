"""What the tests of relays share: TCP pairs on loopback, a relay process, an observer."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import struct
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from proxy import channel
from proxy.relay.hand_off import RelayEnding, RelayPool, Row
from tests.patience import PATIENCE_S

SMALL_BUFFER = 64 * 1024  # one segment on loopback: less makes tests slow


def tcp_pair(receive_buffer: int | None = None) -> tuple[socket.socket, socket.socket]:
    """A far end and the near end for the proxy. With `receive_buffer` they hold little."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        far = socket.socket()
        if receive_buffer is not None:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            far.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, SMALL_BUFFER)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SMALL_BUFFER)
        listener.listen()
        far.connect(listener.getsockname())
        near, _ = listener.accept()
    far.settimeout(PATIENCE_S)
    return far, near


def close_by_reset(sock: socket.socket) -> None:
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


def read_to_end(sock: socket.socket) -> bytes:
    parts = []
    while part := sock.recv(1 << 20):
        parts.append(part)
    return b"".join(parts)


def open_fds(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


def wait_for(condition: Callable[[], bool]) -> None:
    """Wait until it is so."""
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not come to pass"
        time.sleep(0.005)


async def until(condition: Callable[[], bool]) -> None:
    """Wait until it is so, while the loop turns."""
    async with asyncio.timeout(PATIENCE_S):
        while not condition():  # noqa: ASYNC110 - what other processes do sets no event
            await asyncio.sleep(0.005)


class Recorder:
    """A RelayObserver that remembers."""

    def __init__(self) -> None:
        self.rows: dict[int, Row] = {}
        self.ready: list[int] = []
        self.progress: dict[int, tuple[int, int]] = {}
        self.progress_count = 0
        self.endings: dict[int, RelayEnding] = {}
        self.lost: list[int] = []

    def relay_row(self, row: Row) -> None:
        self.rows[row.conn_id] = row

    def relay_ready(self, index: int) -> None:
        self.ready.append(index)

    def relay_progress(self, conn_id: int, bytes_up: int, bytes_down: int) -> None:
        self.progress[conn_id] = (bytes_up, bytes_down)
        self.progress_count += 1

    def relay_ended(self, conn_id: int, ending: RelayEnding) -> None:
        assert conn_id not in self.endings, "an ending was told twice"
        self.endings[conn_id] = ending

    def relay_lost(self, conn_ids: list[int]) -> None:
        self.lost += conn_ids


class RelayUnderTest:
    """A relay process with the test as its parent."""

    def __init__(self) -> None:
        self.control, theirs = channel.pair()
        fd = theirs.fileno()
        command = [sys.executable, "-m", "proxy.relay.process", "--control-fd", str(fd)]
        self.process = subprocess.Popen(command, pass_fds=[fd])
        theirs.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    def new_front(self) -> socket.socket:
        """The front's end of a new channel to this relay."""
        ours, theirs = channel.pair()
        with theirs:
            assert channel.send(self.control, b'{"act": "front"}', [theirs.fileno()])
        return ours

    async def pool(self, observer: Recorder, index: int = 0) -> RelayPool:
        """A front that knows this relay alone, and all of its rows."""
        pool = RelayPool(observer, asyncio.get_running_loop())
        pool.attach(index, self.pid, self.new_front())
        await pool.ready(1, PATIENCE_S)
        return pool

    def parent_dies(self) -> None:
        self.control.close()

    def stop(self) -> int:
        """As the parent does it; the exit code."""
        assert channel.send(self.control, json.dumps({"act": "stop"}).encode())
        return self.process.wait(PATIENCE_S)

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.wait(PATIENCE_S)
        self.control.close()


async def hand_over(
    pool: RelayPool,
    conn_id: int,
    *,
    idle_s: float | None = None,
    half_close_s: float = 30.0,
    receive_buffer: int | None = None,
) -> tuple[socket.socket, socket.socket]:
    """An established connection; its far ends."""
    client, near_client = tcp_pair(receive_buffer)
    server, near_server = tcp_pair(receive_buffer)
    await pool.hand_off(
        conn_id,
        near_client,
        near_server,
        bytes_up=0,
        idle_s=idle_s,
        half_close_s=half_close_s,
        record=b"record %d" % conn_id,
    )
    return client, server
