"""The reloader: when it reads the file, and what it tells of what it finds there."""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy import config, reload
from proxy.config.changes import Change, changes
from proxy.front import StartError
from proxy.reload import Reloader
from proxy.settings import Settings
from tests.patience import PATIENCE_S
from tests.unit.control.farm import FARM

WEIGHED = FARM.replace("10.0.0.22:3389", "10.0.0.22:3389, weight: 7")


class Front:
    """Takes configurations."""

    def __init__(self) -> None:
        self.settings, self.text = config.loads(FARM), FARM
        self.refuses = False
        self.taken: list[str] = []

    async def change(self, settings: Settings, text: str) -> list[Change]:
        if self.refuses:
            raise StartError("listener rdp at 127.0.0.1:1: Address already in use")
        found = changes(self.settings, settings)
        self.settings, self.text = settings, text
        self.taken.append(text)
        return found


class Writer:
    def __init__(self) -> None:
        self.levels: list[str] = []

    def change(self, settings: Any) -> None:
        self.levels.append(settings.level)


class World:
    def __init__(self, path: Path, *, refused: bool = False) -> None:
        self.path, self.front, self.writer = path, Front(), Writer()
        self.now = 1_000.0
        front: Any = self.front
        writer: Any = self.writer
        self.reloader = Reloader(str(path), front, writer, lambda: self.now, refused=refused)
        self.now += 1

    def shown(self) -> dict[str, float]:
        return {" ".join((it.name, *it.labels)): it.value for it in self.reloader.samples()}

    async def until(self, name: str, value: float = 1) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.shown()[name] != value:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    run = asyncio.create_task(world.reloader.run())
    yield
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


@pytest.fixture
def world(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(reload, "LOOK_S", 0.01)
    path = tmp_path / "config.yaml"
    path.write_text(FARM)
    return World(path)


@pytest.fixture
def unwatched(world: World, monkeypatch: pytest.MonkeyPatch) -> World:
    """As it is between two looks."""
    monkeypatch.setattr(reload, "LOOK_S", 3600.0)
    return world


async def test_a_changed_file_is_taken(world: World, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    async with running(world):
        world.path.write_text(WEIGHED)
        await world.until("config_reloads_total applied")
    assert world.front.taken == [WEIGHED]
    assert world.writer.levels == ["info"]
    assert world.shown()["config_last_reload_timestamp_seconds"] == 1_001
    (line,) = caplog.records
    assert line.getMessage() == "config_reloaded"
    told = vars(line)
    assert told["what"] == ["~ pools.desktops.hosts.rdsh02.weight: 100 -> 7"]
    assert (told["changes"], told["hosts_added"], told["wait"]) == (1, 0, None)


async def test_another_file_in_its_place_is_taken_even_if_it_looks_alike(world: World) -> None:
    async with running(world):
        await world.until("config_reload_success")
        other = world.path.with_name("other")
        other.write_text(FARM.replace("10.0.0.22", "10.0.0.23"))
        times = world.path.stat()
        os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
        other.replace(world.path)
        await world.until("config_reloads_total applied")


async def test_a_file_is_read_again_when_somebody_may_read_it_now(world: World) -> None:
    async with running(world):
        world.front.refuses = True
        world.path.write_text(WEIGHED)
        await world.until("config_reloads_total refused")
        world.front.refuses = False
        world.path.chmod(0o640)
        await world.until("config_reloads_total applied")


async def test_a_file_that_is_gone_before_the_first_look_is_told(world: World) -> None:
    world.path.unlink()
    async with running(world):
        await world.until("config_reloads_total refused")


async def test_a_file_that_is_being_written_is_left_alone_until_it_stands_still(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = iter(range(5))
    monkeypatch.setattr(reload, "_signature", lambda _: (next(looks, 5),))
    world.path.write_text(WEIGHED)
    async with running(world):
        await world.until("config_reloads_total applied")
    assert next(looks, None) is None


async def test_a_bad_file_is_refused_with_all_problems_and_what_is_in_force_stays(
    unwatched: World, caplog: pytest.LogCaptureFixture
) -> None:
    unwatched.path.write_text(FARM.replace("hash", "hush").replace("tool01", "tool 01"))
    async with running(unwatched):
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total refused")
    assert unwatched.front.taken == []
    details = [vars(record)["detail"] for record in caplog.records]
    assert len(details) == 2
    assert all(detail.startswith(f"{unwatched.path}:") for detail in details)
    shown = unwatched.shown()
    assert (shown["config_reload_success"], shown["config_last_reload_timestamp_seconds"]) == (
        0,
        1_000,
    )


async def test_a_bad_file_that_stays_is_told_once(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    signature = reload._signature

    def look(path: str) -> tuple[int, ...] | None:
        looks.append(path)
        return signature(path)

    monkeypatch.setattr(reload, "_signature", look)
    async with running(world):
        world.path.write_text("listeners: []\n")
        await world.until("config_reloads_total refused")
        seen = len(looks)
        async with asyncio.timeout(PATIENCE_S):
            while len(looks) < seen + 5:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
    assert world.shown()["config_reloads_total refused"] == 1


async def test_a_file_full_of_problems_does_not_flood_the_log(
    unwatched: World, caplog: pytest.LogCaptureFixture
) -> None:
    listeners = "\n".join(f"  - {{name: l{n}, bind: nowhere, pool: p}}" for n in range(99))
    unwatched.path.write_text(f"listeners:\n{listeners}\n")
    async with running(unwatched):
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total refused")
    assert len(caplog.records) == 21
    assert "rdp-proxy check" in vars(caplog.records[-1])["detail"]


async def test_a_file_that_is_away_is_refused_and_a_good_one_heals_it(unwatched: World) -> None:
    async with running(unwatched):
        unwatched.path.unlink()
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total refused")
        unwatched.path.write_text(FARM)
        unwatched.reloader.ask()
        await unwatched.until("config_reload_success")
    assert unwatched.shown()["config_reloads_total unchanged"] == 1


async def test_what_cannot_be_had_refuses_the_file(
    unwatched: World, caplog: pytest.LogCaptureFixture
) -> None:
    unwatched.front.refuses = True
    unwatched.path.write_text(WEIGHED)
    async with running(unwatched):
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total refused")
    assert "Address already in use" in vars(caplog.records[0])["detail"]


async def test_asking_without_a_change_says_so(
    unwatched: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    async with running(unwatched):
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total unchanged")
    assert [vars(record)["changes"] for record in caplog.records] == [0]


async def test_what_waits_is_named_again_whenever_somebody_asks(
    unwatched: World, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    unwatched.front.settings = config.loads(f"{FARM}relay: {{processes: 3}}\n")
    async with running(unwatched):
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total applied")
    assert [vars(record)["wait"] for record in caplog.records] == [["relay.processes"]]


async def test_warnings_are_told_of_what_was_taken(
    unwatched: World, caplog: pytest.LogCaptureFixture
) -> None:
    unwatched.path.write_text(FARM.replace("10.0.1.2:3389", "10.0.1.2:3389, weight: 0"))
    unwatched.path.write_text(
        unwatched.path.read_text().replace("10.0.1.1:3389", "10.0.1.1:3389, weight: 0")
    )
    async with running(unwatched):
        unwatched.reloader.ask()
        await unwatched.until("config_reloads_total applied")
    assert "all weights are 0" in vars(caplog.records[-1])["detail"]


async def test_a_front_that_had_to_start_with_an_older_one_says_so(
    world: World, tmp_path: Path
) -> None:
    assert World(tmp_path / "config.yaml", refused=True).shown()["config_reload_success"] == 0
    assert world.shown()["config_reload_success"] == 1
