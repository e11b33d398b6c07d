"""A storm: many connections at once through one relay, and the account of each.

    python -m tests.integration.relay_storm 20000

Every direction of every connection has bytes of its own, which are compared as they arrive: so a
byte that is lost, doubled, or another connection's is seen. Some readers are slow; some ends talk
only after the other has finished; some reset, in the middle or right after their last word.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import random
import socket
import sys
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from enum import Enum, auto

from proxy.errors import Cause, Side
from proxy.relay.hand_off import RelayPool
from proxy.relay.legs import unacknowledged
from tests.unit.relay.harness import (
    Recorder,
    RelayUnderTest,
    close_by_reset,
    open_fds,
    until,
)

AT_ONCE = 500
_CONNECTION_S = 60.0
_READ_BYTES = 256 * 1024
_LISTENERS = 16
_SOURCE = memoryview(random.Random(0).randbytes(8 << 20))
_LONGEST = 2 << 20


class Course(Enum):
    """How a connection goes."""

    TALK = auto()  # both say all at once, and finish
    QUESTION = auto()  # one finishes, then the other answers
    LAST_WORDS = auto()  # one says all, and resets when the relay has it
    CUT = auto()  # one resets in the middle
    BOTH_CUT = auto()


_COURSES = dict(zip(Course, (50, 15, 10, 20, 5), strict=True))


class StormError(Exception):
    """What must not happen."""


@dataclass(eq=False)
class End:
    """One far end: what it says, what it is to hear, and what it has heard."""

    side: Side
    sock: socket.socket
    says: memoryview
    hears: memoryview
    slow: bool
    chance: random.Random
    resets: bool = False
    waits: bool = False
    heard: int = 0
    is_corrupt: bool = False
    was_reset: bool = False
    finished: asyncio.Event = field(default_factory=asyncio.Event)

    async def talk(self) -> None:
        """Say all in pieces, then finish; a reset by the other end ends it."""
        loop = asyncio.get_running_loop()
        if self.waits:
            await self.finished.wait()
        place = 0
        try:
            while place < len(self.says):
                piece = self.chance.choice((7, 1400, 16_000, 300_000, 1_000_000))
                await loop.sock_sendall(self.sock, self.says[place : place + piece])
                place += piece
                if self.chance.random() < 0.1:
                    await asyncio.sleep(self.chance.random() * 0.01)
            if not self.resets:
                self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            self.was_reset = True  # who reads after that meets an end

    async def listen(self) -> None:
        """Hear to the end, and compare."""
        loop = asyncio.get_running_loop()
        try:
            while part := await loop.sock_recv(self.sock, _READ_BYTES):
                if self.hears[self.heard : self.heard + len(part)] != part:
                    self.is_corrupt = True
                self.heard += len(part)
                if self.slow:
                    await asyncio.sleep(self.chance.random() * 0.02)
        except ConnectionError:
            self.was_reset = True
        finally:
            self.finished.set()


class Storm:
    """All connections of one run.

    Attributes:
        faults: one line for each thing that must not happen.
        courses: how many connections went how.
    """

    def __init__(self, relay: RelayUnderTest, *, seed: int = 1) -> None:
        self.faults: list[str] = []
        self.courses: Counter[Course] = Counter()
        self.carried = 0
        self._relay = relay
        self._seed = seed
        self._seen = Recorder()
        self._listeners: list[socket.socket] = []

    async def run(self, count: int) -> None:
        """Play so many connections, and see that nothing is left of them."""
        pool = await self._relay.pool(self._seen)
        before = open_fds(self._relay.pid)
        with ExitStack() as stack:
            for number in range(1, _LISTENERS + 1):
                listener = stack.enter_context(socket.socket())
                listener.bind((f"127.0.0.{number}", 0))
                listener.listen(AT_ONCE)
                self._listeners.append(listener)
            numbers = iter(range(count))
            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(self._play_on(pool, numbers))
        try:
            await until(lambda: len(self._seen.endings) == count)
            await until(lambda: open_fds(self._relay.pid) == before)
        except TimeoutError:
            self.faults.append(
                f"left over: {count - len(self._seen.endings)} connections,"
                f" {open_fds(self._relay.pid) - before} descriptors"
            )
        if pool.connections != {0: 0} or self._seen.lost:
            self.faults.append(f"account: {pool.connections}, lost {self._seen.lost}")
        pool.stop()

    async def _play_on(self, pool: RelayPool, numbers: Iterator[int]) -> None:
        for conn_id in numbers:
            chance = random.Random(self._seed * 1_000_003 + conn_id)
            course = chance.choices(list(_COURSES), list(_COURSES.values()))[0]
            self.courses[course] += 1
            try:
                async with asyncio.timeout(_CONNECTION_S):
                    await self._play(pool, conn_id, course, chance)
            except TimeoutError:
                self.faults.append(f"hung: connection {conn_id}, {course}")
            except StormError as error:
                self.faults.append(f"connection {conn_id}, {course}: {error}")

    async def _play(
        self, pool: RelayPool, conn_id: int, course: Course, chance: random.Random
    ) -> None:
        ups, downs = _bytes(chance), _bytes(chance)
        slow = chance.choices((None, Side.CLIENT, Side.SERVER), (80, 10, 10))[0]
        far_client, near_client = self._pair(chance, small=slow is Side.CLIENT)
        far_server, near_server = self._pair(chance, small=slow is Side.SERVER)
        with far_client, far_server:
            client = End(Side.CLIENT, far_client, ups, downs, slow is Side.CLIENT, chance)
            server = End(Side.SERVER, far_server, downs, ups, slow is Side.SERVER, chance)
            await pool.hand_off(
                conn_id,
                near_client,
                near_server,
                bytes_up=0,
                idle_s=None,
                half_close_s=_CONNECTION_S,
                record=b"",
            )
            one, other = chance.sample((client, server), 2)
            if course in {Course.TALK, Course.QUESTION}:
                other.waits = course is Course.QUESTION
                await _both_to_the_end(one, other)
            elif course is Course.LAST_WORDS:
                one.says = one.says[:16_000]
                other.slow = False
                await _last_words(one, other)
            else:
                await _cut(one, other, both=course is Course.BOTH_CUT)
            await self._judge(conn_id, course, client, server)

    async def _judge(self, conn_id: int, course: Course, client: End, server: End) -> None:
        await until(lambda: conn_id in self._seen.endings)
        ending = self._seen.endings[conn_id]
        if client.is_corrupt or server.is_corrupt:
            raise StormError("corrupt")
        self.carried += ending.bytes_up + ending.bytes_down
        if course in {Course.TALK, Course.QUESTION}:
            whole = (ending.bytes_up, ending.bytes_down) == (len(client.says), len(server.says))
            if ending.cause is not Cause.CLOSED or not whole:
                raise StormError(f"an orderly connection ended as {ending}")
        elif ending.side is Side.LOCAL or ending.cause not in {Cause.RESET, Cause.CLOSED}:
            raise StormError(f"a reset ended as {ending}")
        elif ending.bytes_up < server.heard or ending.bytes_down < client.heard:
            raise StormError(f"heard more than was carried: {ending}")

    def _pair(self, chance: random.Random, *, small: bool) -> tuple[socket.socket, socket.socket]:
        listener = chance.choice(self._listeners)
        far = socket.socket()
        if small:
            far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 16_384)
        far.connect(listener.getsockname())
        near, address = listener.accept()
        assert address == far.getsockname()
        far.setblocking(False)
        return far, near


def _bytes(chance: random.Random) -> memoryview:
    """From nothing to much; no two alike."""
    most = chance.choice((0, 100, 5_000, 5_000, 50_000, 400_000, _LONGEST, _LONGEST))
    place = chance.randrange(len(_SOURCE) - most)
    return _SOURCE[place : place + chance.randint(0, most)]


async def _both_to_the_end(one: End, other: End) -> None:
    await asyncio.gather(one.talk(), one.listen(), other.talk(), other.listen())
    for end in (one, other):
        if end.was_reset:
            raise StormError(f"lost: {end.side} was reset")
        if end.heard != len(end.hears):
            raise StormError(f"lost: {len(end.hears) - end.heard} bytes to {end.side}")


async def _last_words(one: End, other: End) -> None:
    """The other end may be talking, and has to hear all the same."""
    one.resets = True
    talking = asyncio.create_task(other.talk())
    listening = asyncio.create_task(other.listen())
    await one.talk()
    while unacknowledged(one.sock.fileno()):  # noqa: ASYNC110 - nothing tells of it
        await asyncio.sleep(0.001)
    close_by_reset(one.sock)
    await asyncio.gather(talking, listening)
    if other.heard != len(one.says):
        raise StormError(f"lost: {len(one.says) - other.heard} bytes before a reset")
    if not other.was_reset:
        raise StormError("a reset was told as an end")


async def _cut(one: End, other: End, *, both: bool) -> None:
    """What was heard until then was compared; nobody may wait for ever."""
    tasks = {
        end: [asyncio.create_task(end.talk()), asyncio.create_task(end.listen())]
        for end in (one, other)
    }
    for end in (one, other) if both else (one,):
        end.resets = True
        await asyncio.sleep(end.chance.random() * 0.05)
        for task in tasks[end]:
            task.cancel()
        await asyncio.gather(*tasks[end], return_exceptions=True)
        close_by_reset(end.sock)
    await asyncio.gather(*tasks[other], return_exceptions=both)


async def _main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.integration.relay_storm")
    parser.add_argument("count", type=int, nargs="?", default=20_000)
    parser.add_argument("--seed", type=int, default=os.getpid())
    args = parser.parse_args()
    relay = RelayUnderTest()
    storm = Storm(relay, seed=args.seed)
    begin = time.monotonic()
    await storm.run(args.count)
    relay.kill()
    sys.stdout.write(
        f"{args.count} connections, {AT_ONCE} at a time, seed {args.seed},"
        f" {time.monotonic() - begin:.0f} s, {storm.carried / 1e9:.2f} GB:"
        f" {', '.join(f'{course.name} {count}' for course, count in storm.courses.items())}\n"
        f"{len(storm.faults)} faults\n"
    )
    for fault in storm.faults[:50]:
        sys.stdout.write(f"  {fault}\n")
    return 1 if storm.faults else 0


if __name__ == "__main__":
    sys.exit(asyncio.run(_main()))
