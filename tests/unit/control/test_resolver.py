"""The resolver, with a name server that the test holds in its hands."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

import pytest

from proxy.address import Address
from proxy.control import resolver
from proxy.control.resolver import Resolver, look_up
from proxy.routing.pool import Host, Pool
from proxy.settings import HostSettings, PoolSettings


def pool_of(*hosts: HostSettings) -> Pool:
    return Pool(PoolSettings(name="desktops", hosts=hosts))


def host_at(address: str, *, name: str = "h0", token_addresses: Sequence[str] = ()) -> HostSettings:
    return HostSettings(
        name=name,
        address=Address.parse(address, 3389),
        token_addresses=tuple(Address.parse(text, 3389) for text in token_addresses),
    )


class NameServer:
    """Answers each question in turn; the last answer of a name stands for ever."""

    def __init__(self, **answers: Sequence[list[str] | Exception]) -> None:
        self.answers = {name: list(answers) for name, answers in answers.items()}
        self.asked: list[str] = []
        self.at_once = 0
        self.most_at_once = 0

    async def __call__(self, name: str) -> list[str]:
        self.asked.append(name)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        await asyncio.sleep(0)
        self.at_once -= 1
        answers = self.answers[name]
        answer = answers.pop(0) if len(answers) > 1 else answers[0]
        if isinstance(answer, Exception):
            raise answer
        return answer


@asynccontextmanager
async def running(
    monkeypatch: pytest.MonkeyPatch, pool: Pool, server: NameServer, rounds: int
) -> AsyncIterator[list[Host]]:
    """A resolver that has asked `rounds` times; yields the hosts whose change it told."""
    monkeypatch.setattr(resolver, "_AGAIN_S", 0.001)
    monkeypatch.setattr(resolver, "_MISSING_S", 0.001)
    changed: list[Host] = []
    enough = asyncio.Event()

    async def lookup(name: str) -> Sequence[str]:
        # The round before is taken in when its name is asked again.
        if len(server.asked) >= rounds:
            enough.set()
            await asyncio.Event().wait()
        return await server(name)

    names = Resolver([pool], changed.append, lookup)
    run = asyncio.create_task(names.run())
    async with asyncio.timeout(10):
        await enough.wait()
        assert await names.settled(1)
    yield changed
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_a_name_becomes_addresses_with_the_hosts_port(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = pool_of(host_at("rdsh:3390", token_addresses=["192.0.2.7:3390"]))
    server = NameServer(rdsh=[["10.0.0.1", "2001:db8::1"]])
    async with running(monkeypatch, pool, server, 2) as changed:
        host = pool.hosts[0]
        assert host.address == Address("10.0.0.1", 3390)
        assert host.names == {
            Address("10.0.0.1", 3390),
            Address("2001:db8::1", 3390),
            Address("192.0.2.7", 3390),
        }
        assert changed == [host], "told once, not at each round"


async def test_hosts_with_an_ip_address_are_left_alone() -> None:
    pool = pool_of(host_at("10.0.0.1"), host_at("[2001:db8::1]:3389", name="h1"))
    names = Resolver([pool], lambda host: pytest.fail(f"{host} changed"))
    assert await names.settled(0.001)
    await names.run()


async def test_one_lookup_serves_all_hosts_of_a_name(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(host_at("rdsh:3389"), host_at("rdsh:3390", name="h1"))
    async with running(monkeypatch, pool, NameServer(rdsh=[["10.0.0.1"]]), 1) as changed:
        assert [host.address for host in pool.hosts] == [
            Address("10.0.0.1", 3389),
            Address("10.0.0.1", 3390),
        ]
        assert changed == list(pool.hosts)


@pytest.mark.parametrize("failure", [OSError("no name server"), UnicodeError("label too long"), []])
async def test_a_failure_keeps_the_last_answer(
    monkeypatch: pytest.MonkeyPatch, failure: Exception | list[str]
) -> None:
    pool = pool_of(host_at("rdsh"))
    server = NameServer(rdsh=[["10.0.0.1"], failure])
    async with running(monkeypatch, pool, server, 3) as changed:
        assert pool.hosts[0].address == Address("10.0.0.1", 3389)
        assert len(changed) == 1


async def test_a_name_that_fails_at_first_is_asked_again(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(host_at("rdsh"))
    server = NameServer(rdsh=[OSError("not yet"), ["10.0.0.1"]])
    async with running(monkeypatch, pool, server, 2):
        assert pool.hosts[0].address == Address("10.0.0.1", 3389)


async def test_a_host_that_moves_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(host_at("rdsh"))
    server = NameServer(rdsh=[["10.0.0.1"], ["10.0.0.2"]])
    async with running(monkeypatch, pool, server, 2) as changed:
        assert pool.hosts[0].address == Address("10.0.0.2", 3389)
        assert len(changed) == 2


async def test_rotating_answers_do_not_move_a_host(monkeypatch: pytest.MonkeyPatch) -> None:
    pool = pool_of(host_at("rdsh"))
    server = NameServer(
        rdsh=[["10.0.0.1", "10.0.0.2"], ["10.0.0.2", "10.0.0.1"], ["10.0.0.3", "10.0.0.1"]]
    )
    async with running(monkeypatch, pool, server, 2) as changed:
        assert len(changed) == 1
    async with running(monkeypatch, pool, server, 4):
        assert pool.hosts[0].address == Address("10.0.0.1", 3389)
        assert Address("10.0.0.3", 3389) in pool.hosts[0].names


async def test_an_address_that_only_tokens_still_name_is_no_longer_dialled(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pool = pool_of(host_at("rdsh", token_addresses=["10.0.0.1"]))
    server = NameServer(rdsh=[["10.0.0.1", "10.0.0.2"], ["10.0.0.2"]])
    async with running(monkeypatch, pool, server, 2):
        assert pool.hosts[0].address == Address("10.0.0.2", 3389)


async def test_a_start_does_not_wait_for_a_name_server_that_is_silent() -> None:
    async def silence(_: str) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    names = Resolver([pool_of(host_at("rdsh"))], lambda host: None, silence)
    run = asyncio.create_task(names.run())
    assert not await names.settled(0.01)
    run.cancel()
    with pytest.raises(asyncio.CancelledError):
        await run


async def test_only_a_few_names_are_asked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"n{number}" for number in range(20)]
    pool = pool_of(*(host_at(name, name=name) for name in names))
    server = NameServer(**{name: [["10.0.0.1"]] for name in names})
    async with running(monkeypatch, pool, server, 20):
        assert sorted(server.asked) == sorted(names)
        assert server.most_at_once == 4


async def test_the_systems_resolver_is_asked() -> None:
    assert await look_up("127.0.0.1") == ["127.0.0.1"]
    assert await look_up("::ffff:127.0.0.1") == ["127.0.0.1"]
    assert "127.0.0.1" in await look_up("localhost")
    with pytest.raises(UnicodeError):
        await look_up("x" * 70 + ".example")
