"""Which hosts there are: names that are resolved, configurations that come, hosts that leave."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from proxy import config, host_keeper
from proxy.address import Address
from proxy.control import lookup, resolver
from proxy.host_keeper import HostKeeper
from proxy.routing import pool
from proxy.routing.will import Will, Wish
from proxy.settings import Settings
from tests.patience import PATIENCE_S
from tests.unit.control.farm import FARM
from tests.unit.control.name_server import NameServer, name_server


class House:
    def __init__(self, server: NameServer, text: str) -> None:
        self.server = server
        self.changes = 0
        self.keeper = HostKeeper(self.settings(text), self._changed)

    def settings(self, text: str) -> Settings:
        host, port = self.server.address
        return config.loads(f'{text}dns: {{servers: ["{host}:{port}"]}}\n')

    def _changed(self) -> None:
        self.changes += 1

    def names(self) -> list[str]:
        return [host.name for host in self.keeper.farm.hosts]

    def is_answered(self) -> bool:
        return all(it.value for it in self.keeper.samples() if it.name == "dns_name_up")

    async def until_changed(self, changes: int) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while self.changes < changes:  # noqa: ASYNC110
                await asyncio.sleep(0.001)


@pytest.fixture(autouse=True)
def quick(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "HOSTS_FILE", tmp_path / "hosts")
    monkeypatch.setattr(resolver, "LEAST_S", 0.01)
    monkeypatch.setattr(resolver, "AGAIN_S", 0.01)
    monkeypatch.setattr(host_keeper, "TIDY_S", 0.01)


@asynccontextmanager
async def house(text: str = FARM) -> AsyncIterator[House]:
    async with name_server() as server:
        server.zone["farm.example", "A"] = 0, ["10.0.0.31", "10.0.0.32"]
        made = House(server, text)
        run = asyncio.create_task(made.keeper.run())
        yield made
        run.cancel()
        with pytest.raises(asyncio.CancelledError):
            await run


NAMED = FARM.replace("10.0.1.2:3389", "farm.example:3389")
RESOLVED = ["rdsh01", "rdsh02", "tool01", "tool02[10.0.0.31]", "tool02[10.0.0.32]"]


async def test_names_are_followed_from_the_start() -> None:
    async with house(NAMED) as here:
        await here.keeper.settled()
        assert here.names() == RESOLVED
        assert here.changes == 1
        here.server.zone["farm.example", "A"] = 0, ["10.0.0.32"]
        await here.until_changed(2)
        assert here.names() == [*RESOLVED[:3], "tool02[10.0.0.32]"]


async def test_a_name_server_that_fails_changes_nothing_and_shows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO", "proxy")
    async with house(NAMED) as here:
        await here.keeper.settled()
        zone, here.server.zone = here.server.zone, {}
        async with asyncio.timeout(PATIENCE_S):
            while here.is_answered():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        assert here.names() == RESOLVED
        here.server.zone = zone
        async with asyncio.timeout(PATIENCE_S):
            while len(caplog.records) < 3:  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        told = [record.message for record in caplog.records]
        assert told == ["name_resolved", "name_failed", "name_resolved"]
        assert here.changes == 1


async def test_a_name_that_leads_to_the_proxy_itself_changes_nothing(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """As where the farm's name was the hosts' until the proxy took their place."""
    async with house(NAMED.replace("bind: 127.0.0.1:0", 'bind: "0.0.0.0:3389"')) as here:
        await here.keeper.settled()
        here.server.zone["farm.example", "A"] = 0, ["10.0.0.31", "127.0.0.1"]
        async with asyncio.timeout(PATIENCE_S):
            while here.is_answered():  # noqa: ASYNC110
                await asyncio.sleep(0.001)
        (told,) = [record for record in caplog.records if record.message == "name_failed"]
        assert vars(told)["detail"] == "127.0.0.1:3389 is this proxy itself"
        assert here.names() == RESOLVED


async def test_hosts_of_a_prepared_configuration_are_there_when_it_comes() -> None:
    async with house() as here:
        after = here.settings(NAMED)
        to_come = await here.keeper.prepare(after)
        assert {name for _, name in to_come} == set(RESOLVED)
        assert "tool02" in here.names()
        here.keeper.change(after)
        assert here.names() == RESOLVED
        here.keeper.change(here.settings(FARM))
        named = [it for it in here.keeper.samples() if it.name == "dns_name_up"]
        assert named == []
        assert here.keeper._resolver.names == set(), "nobody asks for it any more"


async def test_a_host_that_has_left_is_forgotten_with_its_last_connection() -> None:
    async with house() as here:
        gone = here.keeper.farm.hosts[1]
        gone.live = 1
        here.keeper.change(here.settings(FARM.replace("name: rdsh02", "name: rdsh03")))
        assert here.names()[:3] == ["rdsh01", "rdsh03", "rdsh02"]
        assert here.changes == 1
        gone.live = 0
        await here.until_changed(2)
        assert "rdsh02" not in here.names()


async def test_hosts_that_came_with_connections_are_indexed() -> None:
    async with house() as here:
        farm = here.keeper.farm
        farm.pools["desktops"].adopt("rdsh09", Address("10.0.0.9", 3389))
        assert farm.routes["rdp"].named_by(at("10.0.0.9:3389")) is None
        here.keeper.adopted()
        assert here.changes == 1
        host = farm.routes["rdp"].named_by(at("10.0.0.9:3389"))
        assert host is farm.pools["desktops"].by_name["rdsh09"]


ADOPTING = FARM.replace(
    "  - name: desktops\n",
    "  - name: desktops\n    token: {networks: [10.0.4.0/24, 127.0.0.0/8]}\n",
)


at = Address.parse


def counted(here: House, name: str) -> float:
    (value,) = [it.value for it in here.keeper.samples() if it[:2] == (name, ("desktops",))]
    return value


async def test_a_host_that_a_token_names_in_the_networks_is_adopted_and_forgotten(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "proxy")
    async with house(ADOPTING) as here:
        routes = here.keeper.farm.routes["rdp"]
        guest = await here.keeper.guest(routes, at("10.0.4.7:3389"))
        other = await here.keeper.guest(routes, at("10.0.4.7:3389"))
        assert guest is not None
        assert other is not None
        assert await here.keeper.guest(routes, at("10.0.5.7:3389")) is None
        assert (guest.name, "[10.0.4.7]" in here.names()) == ("[10.0.4.7]", False)
        assert [counted(here, name) for name in ("hosts_adopted", "adoptions_total")] == [0, 0]
        assert here.keeper.adopt(guest) is here.keeper.adopt(other) is guest
        assert routes.named_by(at("10.0.4.7:3389")) is guest
        assert [counted(here, name) for name in ("hosts_adopted", "adoptions_total")] == [1, 1]
        await here.until_changed(1)
        assert here.names().count("[10.0.4.7]") == 1
        monkeypatch.setattr(pool, "ADOPTED_KEPT_S", 0.0)
        await here.until_changed(2)
        assert "[10.0.4.7]" not in here.names()
    (line,) = [line for line in caplog.records if line.message == "host_adopted"]
    assert vars(line)["host_address"] == "10.0.4.7:3389"


async def test_a_token_that_names_the_proxy_itself_names_nobody() -> None:
    bound = ADOPTING.replace("bind: 127.0.0.1:0", "bind: 127.0.0.1:3389")
    async with house(bound) as here:
        routes = here.keeper.farm.routes["rdp"]
        assert await here.keeper.guest(routes, at("127.0.0.1:3389")) is None
        assert await here.keeper.guest(routes, at("127.0.0.9:3389")) is not None


async def test_a_token_that_would_make_one_host_too_many_is_told_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(pool, "ADOPTED_MAX", 1)
    async with house(ADOPTING) as here:
        routes = here.keeper.farm.routes["rdp"]
        found = []
        for last in (7, 8, 9):
            guest = await here.keeper.guest(routes, at(f"10.0.4.{last}:3389"))
            found.append(guest and here.keeper.adopt(guest))
        assert [host is not None for host in found] == [True, False, False]
        assert counted(here, "adoptions_refused_total") == 2
    (line,) = [line for line in caplog.records if line.message == "adoption_refused"]
    assert vars(line)["host_address"] == "10.0.4.8:3389"


class Wills:
    """What is wanted of hosts, and who was asked for."""

    def __init__(self, here: House) -> None:
        self.here = here
        self.asked: list[str] = []

    async def foresee(self, hosts: list[tuple[str, str]]) -> None:
        new = [name for _, name in hosts if name not in self.here.names()]
        await asyncio.sleep(0)  # as a table on another machine
        assert not set(new) & set(self.here.names()), "they are not here before they are known"
        self.asked += new

    async def wish_for(self, _: str, name: str) -> Wish:
        self.asked.append(name)
        return Wish(Will.MAINTENANCE)


async def test_what_is_wanted_of_hosts_is_known_before_they_come() -> None:
    async with house(NAMED) as here:
        await here.keeper.settled()
        wills = Wills(here)
        here.keeper.wills = wills  # type: ignore[assignment]
        here.server.zone["farm.example", "A"] = 0, ["10.0.0.32", "10.0.0.33"]
        await here.until_changed(2)
        assert wills.asked == ["tool02[10.0.0.33]"]


async def test_a_guest_is_as_it_is_wanted() -> None:
    async with house(ADOPTING) as here:
        here.keeper.wills = Wills(here)  # type: ignore[assignment]
        guest = await here.keeper.guest(here.keeper.farm.routes["rdp"], at("10.0.4.7:3389"))
        assert guest is not None
        assert guest.will is Will.MAINTENANCE


async def test_a_guest_whose_network_goes_while_the_table_is_asked_is_nobody() -> None:
    async with house(ADOPTING) as here:

        class Reloading(Wills):
            async def wish_for(self, _: str, name: str) -> Wish:
                here.keeper.change(here.settings(FARM))
                return await super().wish_for(_, name)

        here.keeper.wills = Reloading(here)  # type: ignore[assignment]
        routes = here.keeper.farm.routes["rdp"]
        assert await here.keeper.guest(routes, at("10.0.4.7:3389")) is None
