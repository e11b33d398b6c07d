from __future__ import annotations

import json
import os
from collections.abc import Iterator

import pytest

from proxy import channel
from proxy.child import Child, Role
from proxy.household import Household


class House(Household):
    """A household whose children are the test's."""

    def __init__(self) -> None:
        super().__init__(["front"])
        self.far: dict[Child, list[dict[str, object]]] = {}
        self._ends: dict[Child, object] = {}

    def fill(self, child: Child, pid: int) -> Child:
        """As if a process ran there; nobody is signalled, because its number is never used."""
        child.pid = pid
        child.control, far = channel.pair()
        self._ends[child] = far
        return child

    def heard(self, child: Child) -> list[dict[str, object]]:
        said = []
        while (message := channel.receive(self._ends[child])) is not None:  # type: ignore[arg-type]
            channel.close_all(message.fds)
            said.append(json.loads(message.data))
        return said

    def close(self) -> None:
        for child in self.children:
            child.hang_up()
        for far in self._ends.values():
            far.close()  # type: ignore[attr-defined]
        self.listening.keep_only(())
        if self.configuration is not None:
            os.close(self.configuration)


@pytest.fixture
def house() -> Iterator[House]:
    house = House()
    yield house
    house.close()


def test_a_front_that_is_promoted_sends_the_one_before_it_away(house: House) -> None:
    old = house.fill(house.front, 1)
    house.next = young = house.fill(Child(Role.FRONT, ["front"]), 2)
    assert house.fronts == [old, young]
    house.promote()
    assert (house.front, house.leaving) == (young, [old])
    assert house.heard(old) == [{"act": "retire"}]
    house.promote()
    assert house.front is young, "there is no other"


def test_a_front_that_is_promoted_after_a_death_sends_nobody_away(house: House) -> None:
    house.next = young = house.fill(Child(Role.FRONT, ["front"]), 2)
    house.promote()
    assert (house.front, house.leaving) == (young, [])


def test_relays_are_replaced_by_as_many_as_are_wanted(house: House) -> None:
    house.have_relays(3)
    first, second, third = house.relays
    house.fill(first, 1)
    house.fill(third, 3)  # the second is dead, and is started again by its successor only
    house.have_relays(2)
    assert len(house.relays) == 3
    house.replace_relays()
    assert [relay.index for relay in house.relays] == [0, 1]
    assert not {first, second, third} & set(house.relays)
    assert house.leaving == [first, third]


def test_a_new_relay_that_is_ready_retires_those_of_its_index(house: House) -> None:
    house.have_relays(2)
    old = [house.fill(relay, 10 + relay.index) for relay in house.relays]
    house.replace_relays()
    house.fill(house.relays[1], 21)
    house.relay_is_ready(21)
    house.relay_is_ready(99)
    assert [relay.ready for relay in house.relays] == [False, True]
    assert [relay.retired for relay in old] == [False, True]


def test_front_and_relay_get_a_channel_of_their_own(house: House) -> None:
    house.have_relays(1)
    (relay,) = house.relays
    house._join(house.front, relay)  # neither is there: nothing happens
    front = house.fill(house.front, 1)
    house.fill(relay, 7)
    relay.retired = True
    house._join(front, relay)
    assert house.heard(front) == [{"act": "relay", "index": 0, "pid": 7, "retired": True}]
    assert house.heard(relay) == [{"act": "front"}]


def test_a_successor_has_all_that_there_was(house: House) -> None:
    house.fill(house.front, 1).ready = True
    house.have_relays(2)
    house.replace_relays()
    house.fill(house.relays[0], 2)
    house.leaving.append(house.fill(Child(Role.RELAY, ["relay"], 0, retired=True), 3))
    house.listening.at("127.0.0.1", 0)
    fd = os.memfd_create("configuration")
    house.keep_configuration(fd)
    house.keep_configuration(fd)  # the newest takes the place of the one before
    os.close(fd)
    state = json.loads(json.dumps(house.state()))
    copies = {fd: os.dup(fd) for fd in house.descriptors()}
    successor = Household(["front"])
    successor.restore(renumbered(state, copies))
    assert renumbered(successor.state(), {copy: fd for fd, copy in copies.items()}) == state
    assert sorted(successor.descriptors()) == sorted(copies.values())
    assert successor.ever_ready
    assert successor.leaving[0].retired
    for child in successor.children:
        child.hang_up()
    successor.listening.keep_only(())
    assert successor.configuration is not None
    os.close(successor.configuration)


def renumbered(state: dict[str, object], numbers: dict[int, int]) -> dict[str, object]:
    """The state with other descriptors in it, as JSON would bring it."""
    copy = json.loads(json.dumps(state))
    children = [copy["front"], *copy["relays"], *(child for _, child in copy["leaving"])]
    for child in children:
        if child["control"] is not None:
            child["control"] = numbers[child["control"]]
    copy["listening"] = [[host, port, numbers[fd]] for host, port, fd in copy["listening"]]
    copy["configuration"] = numbers[copy["configuration"]]
    result: dict[str, object] = copy
    return result
