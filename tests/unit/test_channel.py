from __future__ import annotations

import os
import resource
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import channel

Pair = tuple[socket.socket, socket.socket]


@pytest.fixture
def ends() -> Iterator[Pair]:
    ends = channel.pair()
    yield ends
    for end in ends:
        end.close()


def open_fds() -> set[str]:
    return {entry.name for entry in Path("/proc/self/fd").iterdir() if entry.exists()}


def test_messages_keep_their_bounds_and_their_order(ends: Pair) -> None:
    here, there = ends
    assert channel.send(here, b"one")
    assert channel.send(here, b"two")
    assert channel.receive(there) == channel.Message(b"one")
    assert channel.receive(there) == channel.Message(b"two")
    assert channel.receive(there) is None


def test_the_longest_message_arrives_whole(ends: Pair) -> None:
    here, there = ends
    assert channel.send(here, bytes(channel.MESSAGE_MAX_BYTES))
    message = channel.receive(there)
    assert message is not None
    assert len(message.data) == channel.MESSAGE_MAX_BYTES


def test_descriptors_arrive_as_new_ones_that_children_do_not_inherit(ends: Pair) -> None:
    here, there = ends
    read, write = os.pipe()
    assert channel.send(here, b"take these", [read, write])
    message = channel.receive(there)
    assert message is not None
    assert not any(os.get_inheritable(fd) for fd in message.fds)
    os.write(message.fds[1], b"through")
    assert os.read(read, 10) == b"through"
    channel.close_all([read, write, *message.fds])


def test_an_empty_message_is_refused(ends: Pair) -> None:
    with pytest.raises(ValueError, match="end of the channel"):
        channel.send(ends[0], b"")


def test_the_end_comes_after_all_that_was_sent_before_it(ends: Pair) -> None:
    here, there = ends
    channel.send(there, b"never read")  # makes the system say ECONNRESET first
    channel.send(here, b"one")
    read, write = os.pipe()
    channel.send(here, b"two", [read])
    here.close()
    assert channel.receive(there) == channel.Message(b"one")
    second = channel.receive(there)
    assert second is not None
    assert second.data == b"two"
    for _ in range(2):
        with pytest.raises(EOFError):
            channel.receive(there)
    channel.close_all([read, write, *second.fds])


def test_sending_to_an_end_that_is_gone_is_a_connection_error(ends: Pair) -> None:
    here, there = ends
    there.close()
    with pytest.raises(ConnectionError):
        channel.send(here, b"anybody?")


def test_a_full_queue_takes_no_more_and_goes_on_when_it_was_read(ends: Pair) -> None:
    here, there = ends
    taken = 0
    while channel.send(here, b"%d" % taken):
        taken += 1
    assert taken > 50
    assert not channel.send(here, b"still full")
    for number in range(taken):
        assert channel.receive(there) == channel.Message(b"%d" % number)
    assert channel.send(here, b"room again")


def test_a_message_that_is_too_long_for_the_system_is_an_error(ends: Pair) -> None:
    with pytest.raises(OSError, match="too long"):
        channel.send(ends[0], bytes(4 << 20))


def test_descriptors_without_room_are_told_and_none_is_left_open(ends: Pair) -> None:
    here, there = ends
    before = open_fds()
    assert channel.send(here, b"three", [0, 1, 2])
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    highest = max(int(name) for name in before)
    spare = [os.dup(0) for _ in range(highest)]  # no number below the limit is free but one
    os.close(spare.pop())
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(spare) + 2, hard))
        message = channel.receive(there)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        channel.close_all(spare)
    assert message == channel.Message(b"three")
    assert open_fds() == before


TOO_MANY = """
import os, resource
from proxy import channel
resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
if os.geteuid() == 0:
    os.setuid(65534)
pairs = [channel.pair() for _ in range(4)]
sent = 0
while any([channel.send(here, b"x", [0, 1, 2]) for here, _ in pairs]):
    sent += 1
print(sent)
"""


def test_too_many_descriptors_in_flight_read_as_no_room_now() -> None:
    """The limit is for each user, so a user of its own finds it."""
    # That user may not write here, so whoever measures this run does not measure the child.
    kept = {name: text for name, text in os.environ.items() if not name.startswith("COVERAGE_")}
    environment = {**kept, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", TOO_MANY],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stderr == ""
    assert 0 < int(done.stdout) < 50


def test_an_adopted_descriptor_does_not_wait_and_is_not_inherited(ends: Pair) -> None:
    here, there = ends
    there.setblocking(True)
    there.set_inheritable(True)
    adopted = channel.adopt(there.detach())
    assert channel.receive(adopted) is None
    assert not adopted.get_inheritable()
    channel.send(here, b"hello")
    assert channel.receive(adopted) == channel.Message(b"hello")
    adopted.close()
