"""Looking up one name: hosts file, records of both kinds, and all ways to have no answer."""

from __future__ import annotations

from pathlib import Path

import dns.rcode
import pytest

from proxy.control import lookup
from proxy.control.lookup import HOSTS_FILE_S, Answer, NameLookupError, look_up
from tests.unit.control.name_server import NameServer, name_server


@pytest.fixture(autouse=True)
def hosts_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "hosts"
    monkeypatch.setattr(lookup, "HOSTS_FILE", path)
    return path


async def asked(server: NameServer, name: str = "farm.example") -> Answer:
    return await look_up(name, [server.address])


async def test_all_ipv4_addresses_are_found_with_their_time_to_live() -> None:
    async with name_server() as server:
        server.zone["farm.example", "A"] = 30, ["10.0.0.21", "10.0.0.22"]
        answer = await asked(server)
    assert (sorted(answer.addresses), answer.ttl_s) == (["10.0.0.21", "10.0.0.22"], 30)
    assert server.asked == ["farm.example A"]


async def test_ipv6_counts_where_there_is_no_ipv4() -> None:
    async with name_server() as server:
        server.zone["farm.example", "AAAA"] = 5, ["2001:db8:0::21"]
        assert await asked(server) == Answer(("2001:db8::21",), 5)
    assert server.asked == ["farm.example A", "farm.example AAAA"]


async def test_an_alias_holds_as_long_as_the_shorter_of_both() -> None:
    async with name_server() as server:
        server.zone["farm.example", "A"] = 60, ["10.0.0.21"]
        server.zone["alias.example", "CNAME"] = 7, ["farm.example."]
        assert await asked(server, "alias.example") == Answer(("10.0.0.21",), 7)


@pytest.mark.parametrize("rcode", [dns.rcode.SERVFAIL, dns.rcode.REFUSED, dns.rcode.NXDOMAIN])
async def test_a_server_that_refuses_is_a_failure(rcode: dns.rcode.Rcode) -> None:
    async with name_server() as server:
        server.rcode = rcode
        with pytest.raises(NameLookupError, match=r"farm\.example"):
            await asked(server)


async def test_a_name_without_addresses_is_a_failure() -> None:
    async with name_server() as server:
        server.zone["farm.example", "TXT"] = 5, ["hello"]
        with pytest.raises(NameLookupError, match=r"farm\.example has no address"):
            await asked(server)


async def test_silence_is_a_failure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lookup, "_LIFETIME_S", 0.2)
    async with name_server() as server:
        server.silent = True
        with pytest.raises(NameLookupError, match="expired"):
            await asked(server)


async def test_the_hosts_file_comes_first(hosts_file: Path) -> None:
    hosts_file.write_text(
        "# ours\n\n10.0.0.7 other farm.example. # the first\n::ffff:10.0.0.8\tFarm.Example\n"
        "2001:db8::1 farm.example\nnonsense farm.example\n"
    )
    async with name_server() as server:
        server.zone["farm.example", "A"] = 30, ["10.0.0.21"]
        assert await asked(server) == Answer(("10.0.0.7", "10.0.0.8"), HOSTS_FILE_S)
        hosts_file.write_text("2001:db8::1 farm.example\n")
        assert (await asked(server)).addresses == ("2001:db8::1",)
        hosts_file.unlink()
        assert (await asked(server)).addresses == ("10.0.0.21",)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b"", "no nameservers"),
        (b"nameserver 10.0.0.300\n", "10.0.0.300"),
        (b"nameserver 127.0.0.1\nsearch \xff\n", "decode"),
        (b"nameserver 127.0.0.1\nsearch a..b\n", "label"),
    ],
)
async def test_without_servers_those_of_the_system_are_asked_if_they_can_be_read(
    text: bytes, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(lookup, "RESOLV_CONF", tmp_path / "resolv.conf")
    lookup.RESOLV_CONF.write_bytes(text)
    with pytest.raises(NameLookupError, match=said):
        await look_up("farm.example")


async def test_an_answer_that_blocks_a_name_is_a_failure(hosts_file: Path) -> None:
    async with name_server() as server:
        server.zone["farm.example", "A"] = 30, ["10.0.0.21", "0.0.0.0"]
        with pytest.raises(NameLookupError, match="no machine"):
            await asked(server)
        hosts_file.write_text(":: farm.example\n")
        with pytest.raises(NameLookupError, match="no machine"):
            await asked(server)
