"""The resolver: whom it asks and when, with lookups that the test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from proxy.control import resolver
from proxy.control.lookup import Answer, NameLookupError
from proxy.control.resolver import Resolver
from tests.patience import PATIENCE_S

FIRST = Answer(("10.0.0.1", "10.0.0.2"), 0)
SECOND = Answer(("10.0.0.3",), 0)
AWAY = NameLookupError("no server answers")


class World:
    """A resolver whose lookups give each name's answers in turn, the last one for ever."""

    def __init__(self, **answers: Sequence[Answer | NameLookupError]) -> None:
        self.answers = {name: list(given) for name, given in answers.items()}
        self.asked: list[str] = []
        self.told: list[tuple[str, tuple[str, ...]]] = []
        self.at_once = self.most_at_once = 0
        self.resolver = Resolver(lambda name, found: self.told.append((name, found)), self.look_up)
        self._asked_again = asyncio.Event()

    async def look_up(self, name: str) -> Answer:
        self.asked.append(name)
        self._asked_again.set()
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, NameLookupError):
            raise answer
        return answer

    async def until_asked(self, name: str, times: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.asked.count(name) < times:
                self._asked_again.clear()
                await self._asked_again.wait()


@asynccontextmanager
async def running(world: World, names: Iterable[str]) -> AsyncIterator[None]:
    world.resolver.follow(names)
    run = asyncio.create_task(world.resolver.run())
    yield
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LEAST_S", "AGAIN_S"):
        monkeypatch.setattr(resolver, name, 0.001)


@pytest.mark.usefixtures("quick")
async def test_a_name_is_asked_again_when_its_answer_has_expired() -> None:
    world = World(farm=[FIRST, SECOND])
    async with running(world, ["farm"]):
        await world.until_asked("farm", 3)
    assert world.told[:2] == [("farm", FIRST.addresses), ("farm", SECOND.addresses)]


@pytest.mark.parametrize(
    ("ttl_s", "rest_s"), [(0, resolver.LEAST_S), (60, 60), (86400, resolver.MOST_S)]
)
async def test_an_answer_holds_within_bounds(ttl_s: float, rest_s: float) -> None:
    world = World(farm=[Answer(("10.0.0.1",), ttl_s)])
    assert await world.resolver._ask("farm") == rest_s


@pytest.mark.usefixtures("quick")
async def test_a_failure_changes_nothing_and_is_told_once(caplog: pytest.LogCaptureFixture) -> None:
    world = World(farm=[FIRST, AWAY, AWAY, AWAY, FIRST])
    async with running(world, ["farm"]):
        await world.until_asked("farm", 4)
        assert world.resolver.failing == {"farm": "no server answers"}
        await world.until_asked("farm", 6)
        assert world.resolver.failing == {}
    assert {addresses for _, addresses in world.told} == {FIRST.addresses}
    assert [record.getMessage() for record in caplog.records] == ["name_failed"]


async def test_settled_means_that_every_name_was_asked_once_with_or_without_success() -> None:
    world = World(farm=[FIRST], gone=[AWAY])
    async with running(world, ["farm", "gone"]):
        assert await world.resolver.settled(10)
    assert sorted(world.asked) == ["farm", "gone"]
    assert [name for name, _ in world.told] == ["farm"]


async def test_settled_does_not_wait_for_ever() -> None:
    world = World(farm=[FIRST])
    world.resolver.follow(["farm"])
    assert not await world.resolver.settled(0.01)


async def test_without_names_all_is_settled() -> None:
    assert await World().resolver.settled(0)


@pytest.mark.usefixtures("quick")
async def test_a_name_that_nobody_wants_any_more_is_not_asked_and_a_new_one_is() -> None:
    world = World(old=[AWAY], new=[SECOND])
    async with running(world, ["old"]):
        await world.until_asked("old", 2)
        world.resolver.follow(["new"])
        assert world.resolver.names == {"new"}
        assert await world.resolver.settled(10)
        asked = world.asked.count("old")
        await world.until_asked("new", 5)
        assert world.asked.count("old") == asked
        assert world.resolver.failing == {}


async def test_a_name_that_stays_is_not_asked_anew_by_a_change() -> None:
    world = World(farm=[Answer(("10.0.0.1",), 300)], new=[SECOND])
    async with running(world, ["farm"]):
        await world.resolver.settled(10)
        world.resolver.follow(["farm", "new"])
        await world.resolver.settled(10)
    assert sorted(world.asked) == ["farm", "new"]


async def test_an_answer_for_a_name_that_was_given_up_meanwhile_is_no_failure_of_ours() -> None:
    world = World(farm=[AWAY])
    await world.resolver._ask("farm")
    assert world.resolver.failing == {}


async def test_a_lookup_that_swallows_its_cancellation_holds_nobody_up() -> None:
    world = World(farm=[FIRST])
    begun = asyncio.Event()

    async def look_up(_: str) -> Answer:
        begun.set()
        with suppress(asyncio.CancelledError):
            await asyncio.sleep(3600)
        return Answer(("10.0.0.1",), 300)

    world.resolver = Resolver(lambda name, found: None, look_up)
    async with asyncio.timeout(PATIENCE_S), running(world, ["farm"]):
        await begun.wait()


async def test_a_lookup_that_takes_a_moment_only_is_not_broken_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(resolver, "_MOMENT_S", PATIENCE_S)
    begun = asyncio.Event()
    ended = list[bool]()

    async def look_up(_: str) -> Answer:
        begun.set()
        try:
            for _turn in range(5):
                await asyncio.sleep(0)
        finally:
            ended.append(asyncio.current_task().cancelling() == 0)  # type: ignore[union-attr]
        return Answer(("10.0.0.1",), 300)

    world = World(farm=[FIRST])
    world.resolver = Resolver(lambda name, found: None, look_up)
    async with running(world, ["farm"]):
        await begun.wait()
    assert ended == [True]


async def test_few_names_are_asked_at_once() -> None:
    names = [f"n{number}" for number in range(100)]
    world = World(**{name: [FIRST] for name in names})
    async with running(world, names):
        assert await world.resolver.settled(10)
    assert world.most_at_once <= 16
