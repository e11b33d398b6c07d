from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Iterator

import pytest

from proxy import channel
from proxy.child import CONTROL_FD, Child, Role, python
from tests.unit.relay.harness import wait_for

ECHO = f"""
import os, socket, time
control = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET, fileno={CONTROL_FD})
control.setblocking(True)
while data := control.recv(1000):
    control.send(data)
"""


@pytest.fixture
def child() -> Iterator[Child]:
    child = Child(Role.RELAY, [sys.executable, "-c", ECHO], index=3)
    yield child
    child.kill(signal.SIGKILL)
    child.hang_up()
    if child.pid:
        os.waitpid(child.pid, 0)


def hear(child: Child) -> dict[str, object]:
    heard: list[channel.Message] = []

    def came() -> bool:
        assert child.control is not None
        message = channel.receive(child.control)
        if message is not None:
            heard.append(message)
        return message is not None

    wait_for(came)
    said: dict[str, object] = json.loads(heard[0].data)
    return said


def test_a_child_finds_its_greeting_and_answers(child: Child) -> None:
    child.start(({"act": "greeting"}, None))
    assert hear(child) == {"act": "greeting"}
    child.post({"act": "more"})
    assert hear(child) == {"act": "more"}


def test_what_a_child_does_not_read_yet_waits_in_order(child: Child) -> None:
    child.control, far = channel.pair()
    count = 0
    while not child.outbox:
        child.post({"number": count})
        count += 1
    read, write = os.pipe()
    child.post({"number": count}, write)
    os.close(write)
    numbers: list[int] = []
    fds: list[int] = []
    while len(numbers) <= count:
        message = channel.receive(far)
        if message is None:
            child.flush()
            continue
        numbers.append(json.loads(message.data)["number"])
        fds += message.fds
    assert numbers == list(range(count + 1))
    assert len(fds) == 1
    channel.close_all([read, *fds])
    far.close()


def test_hanging_up_drops_what_waited_and_its_descriptors(child: Child) -> None:
    child.control, far = channel.pair()
    while not child.outbox:
        child.post({"act": "fill"})
    read, write = os.pipe()
    child.post({"act": "late"}, write)
    os.close(write)
    child.hang_up()
    assert os.read(read, 1) == b"", "no copy of its other end is left"
    os.close(read)
    far.close()
    child.post({"act": "nobody hears"})
    assert not child.outbox


def test_a_child_that_cannot_be_started_leaves_no_process() -> None:
    child = Child(Role.FRONT, ["/nowhere"])
    with pytest.raises(OSError, match="No such file"):
        child.start()
    assert child.pid == 0
    child.kill(signal.SIGTERM)  # nobody is there, so nobody is hit
    child.hang_up()


def test_a_child_is_carried_over_an_exec(child: Child) -> None:
    child.start()
    child.deaths, child.ready, child.listens = 2, True, {("::", 3389)}
    assert child.control is not None
    fd = os.dup(child.control.fileno())
    state = json.loads(json.dumps({**child.state(), "control": fd}))
    twin = Child.restored(Role.RELAY, child.command, state)
    assert twin.state() == {**child.state(), "control": fd}
    assert (twin.index, twin.listens) == (3, {("::", 3389)})
    twin.post({"act": "still there?"})
    assert hear(twin) == {"act": "still there?"}
    twin.hang_up()


def test_descriptors_are_those_that_the_state_names(child: Child) -> None:
    assert child.descriptors() == []
    child.control, far = channel.pair()
    while not child.outbox:
        child.post({"act": "fill"})
    child.post({"act": "late"}, far.fileno())
    control, waiting = child.descriptors()
    assert control == child.state()["control"] == child.control.fileno()
    assert [fd for _, fd in child.state()["outbox"] if fd is not None] == [waiting]
    far.close()


def test_a_module_of_ours_runs_with_its_control_channel() -> None:
    assert python("proxy.app", "--config", "f")[1:] == [
        *("-m", "proxy.app", "--control-fd", "3", "--config", "f")
    ]
