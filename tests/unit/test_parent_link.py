from __future__ import annotations

import asyncio
import errno
import json
import os
import signal
import socket
from collections.abc import AsyncIterator

import pytest

from proxy import channel, parent_link
from proxy.address import Address
from proxy.parent_link import ParentLink
from tests.unit.relay.harness import until

ADDRESS = Address("127.0.0.1", 3389)


class Parent:
    """The parent's end of the control channel, in the test's hands, and what the front met."""

    def __init__(self, configuration: str | None = None, **greeting: object) -> None:
        self.control, fronts_end = channel.pair()
        fds = []
        if configuration is not None:
            fds = [os.memfd_create("configuration")]
            os.write(fds[0], configuration.encode())
        self.say({"act": "greeting", "version": 1, **greeting}, *fds)
        channel.close_all(fds)
        self.relays: list[tuple[int, int, socket.socket, bool]] = []
        self.retired = 0
        self.gone = 0
        self.link = ParentLink(
            fronts_end,
            on_relay=self._relay,
            on_retire=self._retire,
            on_parent_gone=self._parent_gone,
        )

    def _relay(self, index: int, pid: int, sock: socket.socket, *, retired: bool) -> None:
        self.relays.append((index, pid, sock, retired))

    def _retire(self) -> None:
        self.retired += 1

    def _parent_gone(self) -> None:
        self.gone += 1

    def say(self, said: dict[str, object], *fds: int) -> None:
        assert channel.send(self.control, json.dumps(said).encode(), fds)

    def heard(self) -> list[tuple[dict[str, object], tuple[int, ...]]]:
        """What came since the last time."""
        said = []
        while (message := channel.receive(self.control)) is not None:
            said.append((json.loads(message.data), message.fds))
        return said

    async def next(self, act: str) -> dict[str, object]:
        """The next message with this act; others are passed over."""
        found: list[dict[str, object]] = []

        def came() -> bool:
            found.extend(said for said, _ in self.heard() if said["act"] == act)
            return bool(found)

        await until(came)
        return found[0]


@pytest.fixture
async def parent(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Parent]:
    """A parent whose link runs."""
    monkeypatch.setattr(parent_link, "HEARTBEAT_S", 0.02)
    parent = Parent()
    running = asyncio.ensure_future(parent.link.run())
    await asyncio.sleep(0)
    yield parent
    parent.control.close()
    await running


async def test_the_last_configuration_is_known_before_anything_is_asked() -> None:
    text = "pools: größer\n" * 50_000
    parent = Parent(text)
    assert parent.link.last_configuration == text
    parent.control.close()
    await parent.link.run()
    first = Parent()
    assert first.link.last_configuration is None
    first.control.close()
    await first.link.run()


async def test_a_parent_that_does_not_greet_is_refused() -> None:
    ours, theirs = channel.pair()
    with pytest.raises(RuntimeError, match="greet"):
        ParentLink(
            ours,
            on_relay=lambda *_, **__: None,
            on_retire=lambda: None,
            on_parent_gone=lambda: None,
        )
    ours.close()
    theirs.close()


async def test_a_listening_socket_comes_as_a_socket_that_does_not_wait(parent: Parent) -> None:
    asking = asyncio.ensure_future(parent.link.listen(ADDRESS))
    asked = await parent.next("listen")
    assert (asked["host"], asked["port"]) == ADDRESS
    with socket.create_server(("127.0.0.1", 0)) as made:
        parent.say({"act": "listen", "number": asked["number"]}, made.fileno())
        sock = await asking
        assert sock.getsockname() == made.getsockname()
    assert not sock.getblocking()
    sock.close()


async def test_an_address_in_use_is_an_os_error_with_the_parents_errno(parent: Parent) -> None:
    asking = asyncio.ensure_future(parent.link.listen(ADDRESS))
    number = (await parent.next("listen"))["number"]
    parent.say(
        {"act": "listen", "number": number, "errno": errno.EADDRINUSE, "error": "already in use"}
    )
    with pytest.raises(OSError, match="already in use") as caught:
        await asking
    assert caught.value.errno == errno.EADDRINUSE


async def test_answers_find_who_asked_whatever_their_order(parent: Parent) -> None:
    asking = [
        asyncio.ensure_future(parent.link.listen(Address("127.0.0.1", port))) for port in (1, 2)
    ]
    await asyncio.sleep(0)
    numbers = {said["port"]: said["number"] for said, _ in parent.heard() if "port" in said}
    made = {port: socket.create_server(("127.0.0.1", 0)) for port in (1, 2)}
    for port in (2, 1):
        parent.say({"act": "listen", "number": numbers[port]}, made[port].fileno())
    for port, task in zip((1, 2), asking, strict=True):
        with made[port], await task as sock:
            assert sock.getsockname() == made[port].getsockname()


async def test_an_answer_that_nobody_waits_for_leaves_no_descriptor(parent: Parent) -> None:
    asking = asyncio.ensure_future(parent.link.listen(ADDRESS))
    number = (await parent.next("listen"))["number"]
    asking.cancel()
    with pytest.raises(asyncio.CancelledError):
        await asking
    read, write = os.pipe()
    parent.say({"act": "listen", "number": number}, write)
    os.close(write)
    os.set_blocking(read, False)

    def closed() -> bool:
        try:
            return os.read(read, 1) == b""
        except BlockingIOError:
            return False

    await until(closed)
    os.close(read)


async def test_relays_and_unlisten_wait_for_their_answers(parent: Parent) -> None:
    relays = asyncio.ensure_future(parent.link.relays(3))
    asked = await parent.next("relays")
    assert asked["count"] == 3
    assert not relays.done()
    parent.say({"act": "relays", "number": asked["number"]})
    await relays
    unlisten = asyncio.ensure_future(parent.link.unlisten(ADDRESS))
    asked = await parent.next("unlisten")
    assert (asked["host"], asked["port"]) == ADDRESS
    parent.say({"act": "unlisten", "number": asked["number"]})
    await unlisten


async def test_a_relay_is_attached_with_its_channel(parent: Parent) -> None:
    ours, theirs = channel.pair()
    parent.say({"act": "relay", "index": 2, "pid": 4711, "retired": True}, theirs.fileno())
    theirs.close()
    await until(lambda: bool(parent.relays))
    ((index, pid, sock, retired),) = parent.relays
    assert (index, pid, retired) == (2, 4711, True)
    channel.send(sock, b"through")
    assert channel.receive(ours) == channel.Message(b"through")
    ours.close()
    sock.close()


async def test_the_parent_hears_that_the_loop_turns(parent: Parent) -> None:
    for _ in range(3):
        await parent.next("alive")
    parent.link.ready()
    await parent.next("ready")
    parent.link.relay_ready(4711)
    assert (await parent.next("relay_ready"))["pid"] == 4711


async def test_a_front_knows_whether_an_older_one_serves_still() -> None:
    for greeting, expected in (({}, False), ({"anew": False}, False), ({"anew": True}, True)):
        parent = Parent(**greeting)  # type: ignore[arg-type]
        assert parent.link.is_upgrade is expected
        parent.control.close()
        await parent.link.run()


async def test_a_front_is_told_to_retire_and_passes_over_words_it_does_not_know(
    parent: Parent,
) -> None:
    parent.say({"act": "dance"})
    parent.say({"act": "retire"})
    await until(lambda: parent.retired == 1)


async def test_a_configuration_of_any_size_is_left_for_a_successor(parent: Parent) -> None:
    text = "x" * 1_000_000 + "ü"
    parent.link.keep_configuration(text)
    fds = [fd for said, fds in parent.heard() if said["act"] == "configuration" for fd in fds]
    (fd,) = fds
    with os.fdopen(fd, "rb") as file:
        file.seek(0)
        assert file.read().decode() == text


async def test_words_for_a_parent_that_does_not_read_wait_and_do_not_pile_up(
    parent: Parent,
) -> None:
    for _ in range(500):
        parent.link.alive()
    parent.link.keep_configuration("kept")
    parent.link.ready()
    waiting = len(parent.link._outbox)
    assert waiting == 3, "one alive that found no room, the configuration, and ready"
    await asyncio.sleep(0.1)
    assert len(parent.link._outbox) == waiting, "a heartbeat adds nothing to what waits"
    said: list[object] = []

    def all_came() -> bool:
        for message, fds in parent.heard():
            channel.close_all(fds)
            said.append(message["act"])
        return "ready" in said

    await until(all_came)
    assert said.count("configuration") == 1
    assert said.index("configuration") < said.index("ready")


async def test_when_the_parent_is_gone_everybody_hears_it_once() -> None:
    parent = Parent()
    running = asyncio.ensure_future(parent.link.run())
    asking = asyncio.ensure_future(parent.link.listen(ADDRESS))
    await asyncio.sleep(0)
    parent.control.close()
    with pytest.raises(ConnectionResetError):
        await asking
    await running
    assert parent.gone == 1


async def test_signals_come_in_when_the_link_runs_and_sigint_stays_out() -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [*parent_link.PASSED_ON, signal.SIGINT])
    parent = Parent()
    try:
        parent.control.close()
        await parent.link.run()
        blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert signal.SIGINT in blocked
        assert blocked.isdisjoint(parent_link.PASSED_ON)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
