from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from typing import Any

import pytest

from proxy import succession, upgrade
from proxy.child import Child, Role
from proxy.household import Household
from proxy.upgrade import Step, Upgrade
from proxy.upgrade_report import Report, State

OLD_FRONT, TRIAL, NEW_FRONT, OLD_RELAY = 11, 12, 13, 14


class World:
    """An upgrade whose processes are numbers; what would be signalled is written down."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.house = Household(["front"])
        self.house.front.pid, self.house.front.ready = OLD_FRONT, True
        self.house.have_relays(1)
        self.house.relays[0].pid = OLD_RELAY
        self.report = Report()
        self.killed: list[tuple[int, int]] = []
        self.execs: list[dict[str, Any]] = []
        self.cannot_exec = False
        self.upgrade = Upgrade(self.house, self.report, self._start)
        monkeypatch.setattr(os, "kill", lambda pid, number: self.killed.append((pid, number)))
        monkeypatch.setattr(succession, "exec_anew", self._exec)

    def _start(self, child: Child) -> None:
        child.pid = TRIAL if child.role is Role.TRIAL else NEW_FRONT

    def _exec(self, state: dict[str, Any], descriptors: list[int]) -> None:
        if self.cannot_exec:
            raise OSError("no such program")
        assert signal.SIGUSR2 in signal.pthread_sigmask(signal.SIG_BLOCK, [])
        assert self.report.fd in descriptors
        self.execs.append(json.loads(json.dumps(state)))

    def to_front(self) -> None:
        """Up to the new program, and the new front in it."""
        self.upgrade.begin()
        self.upgrade.tried(0, lambda: None)
        self.upgrade.go_on({"mask": []})

    def to_relays(self) -> None:
        self.to_front()
        assert self.house.next is not None
        self.upgrade.front_is_ready(self.house.next)
        (old,) = self.house.leaving
        self.house.leaving.remove(old)
        self.upgrade.front_has_left()

    def step(self) -> Step | None:
        return self.upgrade.step

    @property
    def ended(self) -> tuple[State, str]:
        assert self.upgrade.step is None
        outcome = self.report.outcome
        return outcome.state, outcome.detail


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> Iterator[World]:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    world = World(monkeypatch)
    yield world
    os.close(world.report.fd)
    signal.pthread_sigmask(signal.SIG_SETMASK, before)


def test_all_steps_lead_to_the_end(world: World, capsys: pytest.CaptureFixture[str]) -> None:
    world.upgrade.begin()
    assert (world.step(), world.report.outcome.state) == (Step.TRIAL, State.RUNNING)
    world.upgrade.tried(0, lambda: None)
    (state,) = world.execs
    assert state["front"]["pid"] == OLD_FRONT
    world.upgrade.go_on({"mask": []})
    young = world.house.next
    assert young is not None
    assert (world.step(), young.pid) == (Step.FRONT, NEW_FRONT)
    world.upgrade.front_is_ready(young)
    assert world.step() is Step.LEAVE
    assert [child.pid for child in world.house.leaving] == [OLD_FRONT]
    world.house.leaving.clear()
    world.upgrade.front_has_left()
    assert world.step() is Step.RELAYS
    assert [child.pid for child in world.house.leaving] == [OLD_RELAY]
    world.upgrade.relay_is_ready()
    assert world.step() is Step.RELAYS, "the new one is not"
    world.house.relays[0].ready = True
    world.upgrade.relay_is_ready()
    assert world.ended == (State.DONE, "")
    assert world.killed == []
    events = [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()]
    assert events == ["upgrading", "upgraded"]


def test_a_second_one_waits_for_the_end_of_the_first(world: World) -> None:
    world.upgrade.begin()
    trial = world.house.trial
    world.upgrade.begin()
    assert world.house.trial is trial
    assert world.report.outcome.number == 1


@pytest.mark.parametrize(("stopping", "why"), [(True, "stops"), (False, "no front")])
def test_none_is_begun_without_a_front_or_in_a_stop(world: World, stopping: bool, why: str) -> None:
    world.house.front.ready = stopping
    world.upgrade.begin(stopping=stopping)
    assert world.ended[0] is State.FAILED
    assert why in world.ended[1]
    assert world.house.trial is None


def test_a_trial_that_fails_ends_it(world: World) -> None:
    world.upgrade.begin()
    world.upgrade.tried(1, lambda: None)
    assert "cannot start" in world.ended[1]
    assert world.execs == []


def test_a_program_that_cannot_be_executed_ends_it_with_signals_as_before(world: World) -> None:
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    world.cannot_exec = True
    world.upgrade.begin()
    world.upgrade.tried(0, lambda: None)
    assert "no such program" in world.ended[1]
    assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before


def test_a_stop_that_came_meanwhile_is_obeyed_instead(world: World) -> None:
    world.upgrade.begin()
    world.upgrade.tried(0, lambda: world.upgrade.fail("stop"))
    assert world.execs == []
    assert world.ended[0] is State.FAILED


def test_a_new_front_that_dies_leaves_the_old_one(world: World) -> None:
    world.to_front()
    world.house.listening.at("127.0.0.1", 0)  # only the new one asked for it
    world.upgrade.next_has_died(1)
    assert "before it was ready" in world.ended[1]
    assert [front.pid for front in world.house.fronts] == [OLD_FRONT]
    assert world.house.listening.state() == []


def test_where_the_old_front_dies_first_the_new_one_goes_on_alone(world: World) -> None:
    world.to_front()
    world.house.front.pid = 0
    world.house.promote()
    world.upgrade.front_is_ready(world.house.front)
    assert world.step() is Step.RELAYS


def test_an_old_front_that_had_to_be_started_again_leaves_for_the_new_one(world: World) -> None:
    world.to_front()
    old, young = world.house.front, world.house.next
    assert young is not None
    world.upgrade.front_is_ready(old)  # it died in the trial
    assert (world.step(), world.house.next) == (Step.FRONT, young)
    world.upgrade.front_is_ready(young)
    assert (world.step(), world.house.front, world.house.leaving) == (Step.LEAVE, young, [old])


@pytest.mark.parametrize(("steps", "late"), [("begin", TRIAL), ("to_front", NEW_FRONT)])
def test_what_takes_too_long_is_ended_with_the_upgrade(world: World, steps: str, late: int) -> None:
    (world.upgrade.begin if steps == "begin" else world.to_front)()
    world.upgrade.keep_time(time.monotonic())
    assert world.step() is not None, "it is not too late yet"
    world.upgrade.keep_time(time.monotonic() + upgrade.STEP_S)
    assert world.killed == [(late, signal.SIGKILL)]
    assert world.ended[0] is State.FAILED
    world.upgrade.tried(-9, lambda: None)  # its death comes later
    assert world.report.outcome.number == 1


def test_an_old_front_that_does_not_leave_is_killed_and_the_upgrade_goes_on(world: World) -> None:
    world.to_front()
    assert world.house.next is not None
    world.upgrade.front_is_ready(world.house.next)
    world.upgrade.keep_time(time.monotonic() + upgrade.STEP_S)
    assert world.killed == [(OLD_FRONT, signal.SIGKILL)]
    assert world.step() is Step.LEAVE


def test_new_relays_that_do_not_come_leave_the_old_ones(world: World) -> None:
    world.to_relays()
    world.upgrade.keep_time(time.monotonic() + upgrade.STEP_S)
    assert world.ended[0] is State.FAILED
    assert world.killed == []
    assert [child.pid for child in world.house.leaving] == [OLD_RELAY]


def test_words_that_come_at_another_time_mean_nothing(world: World) -> None:
    world.upgrade.front_is_ready(world.house.front)
    world.upgrade.front_has_left()
    world.upgrade.relay_is_ready()
    world.upgrade.fail("nothing is under way")
    world.upgrade.keep_time(time.monotonic() + 1e6)
    assert world.ended == (State.NONE, "")
