"""The farm as others use it: collections, a configuration, a second play."""

from __future__ import annotations

from pathlib import Path

import yaml

from proxy.address import Address
from proxy.lab.farm import Farm

BIND = Address("127.0.0.1", 3390)


async def test_hosts_have_addresses_and_certificates_of_their_own_and_one_port() -> None:
    async with Farm.start(hosts=3, base="127.78.1.") as farm:
        addresses = [host.address for host in farm.hosts.values()]
        assert [address.host for address in addresses] == [f"127.78.1.{n}" for n in (11, 12, 13)]
        assert len({address.port for address in addresses}) == 1
        assert len({host.certificate.fingerprint for host in farm.hosts.values()}) == 3


async def test_a_user_is_redirected_within_the_collection_where_he_arrives() -> None:
    async with Farm.start(collections={"Desktops": 2, "Apps": 2}) as farm:
        farm.broker.place("alice", "rdsh01")
        farm.broker.place("alice", "rdsh04")
        for here, there in (("rdsh02", "rdsh01"), ("rdsh03", "rdsh04")):
            client = farm.client(farm.hosts[here].address, "alice", direct=True)
            assert (await client.login()).host == there


async def test_the_configuration_is_yaml_of_the_farm_with_what_was_laid_over(
    tmp_path: Path,
) -> None:
    async with Farm.start(collections={"Desktops": 1, "Apps": 1}) as farm:
        text = farm.config_yaml(
            BIND,
            tmp_path,
            listener={"require_tls": True},
            pool={"affinity": {"key": "user"}, "health": {"interval": "2s"}},
            affinity={"max_pins": 5},
            log={"level": "debug"},
        )
        read = yaml.safe_load(text)
        assert read == farm.config(
            BIND,
            tmp_path,
            listener={"require_tls": True},
            pool={"affinity": {"key": "user"}, "health": {"interval": "2s"}},
            affinity={"max_pins": 5},
            log={"level": "debug"},
        )
        assert read["listeners"] == [
            {
                "name": "rdp",
                "bind": "127.0.0.1:3390",
                "pool": "desktops",
                "collections": {"Desktops": "desktops", "Apps": "apps"},
                "require_tls": True,
            }
        ]
        desktops, apps = read["pools"]
        assert desktops["health"]["interval"] == apps["health"]["interval"] == "2s"
        assert apps["hosts"] == [{"name": "rdsh02", "address": str(farm.hosts["rdsh02"].address)}]
        assert read["affinity"] == {
            "store": "sqlite",
            "path": str(tmp_path / "affinity.db"),
            "max_pins": 5,
        }


async def test_after_a_reset_the_farm_knows_neither_sessions_nor_visits() -> None:
    async with Farm.start(hosts=2) as farm:
        await farm.client(farm.hosts["rdsh01"].address, "alice").login()
        assert farm.visits
        farm.reset()
        assert not farm.visits
        assert farm.broker.session_of("alice", "Full_Desktop") is None
