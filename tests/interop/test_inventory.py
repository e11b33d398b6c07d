"""The inventory of a farm of all kinds, beside what openssl prints of each host."""

from __future__ import annotations

import asyncio
import json
import socket
import ssl
import warnings
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.wire.x224 import (
    FailureCode,
    NegotiationFailure,
    Protocol,
    encode_connection_request,
    parse_connection_confirm,
)
from tests.integration.running import RunningProxy, running
from tests.interop.display import Display
from tests.interop.openssl import certificate_of, fingerprint
from tests.interop.shadow import nla_only_host
from tests.interop.xrdp import xrdp
from tests.unit.rdp_proxy import rdp_proxy

VERSIONS = {
    "rdsh01": (ssl.TLSVersion.TLSv1, "TLSv1"),
    "rdsh02": (ssl.TLSVersion.TLSv1_1, "TLSv1.1"),
    "rdsh03": (ssl.TLSVersion.TLSv1_2, "TLSv1.2"),
    "rdsh04": (ssl.TLSVersion.TLSv1_3, "TLSv1.3"),
}


def limit_versions(farm: Farm) -> None:
    """Let each simulated host speak one version of TLS."""
    for name, (version, _) in VERSIONS.items():
        context = farm.hosts[name].certificate.server_context
        context.set_ciphers("ALL:@SECLEVEL=0")
        with warnings.catch_warnings():  # old ones are deprecated, and meant
            warnings.simplefilter("ignore", DeprecationWarning)
            context.minimum_version = context.maximum_version = version


def refusal_of_plain_tls(host: Address) -> int:
    """The code by which a host refuses a client that cannot do NLA."""
    with socket.create_connection(host, 10) as sock:
        sock.sendall(encode_connection_request(requested_protocols=Protocol.SSL))
        confirm = parse_connection_confirm(sock.recv(100))
    assert hasattr(confirm, "negotiation")
    assert isinstance(confirm.negotiation, NegotiationFailure)
    return confirm.negotiation.code


async def asked(proxy: RunningProxy, command: str) -> dict[str, dict[str, Any]]:
    """The rows of a command by host."""
    state = str(proxy.directory)
    done = await asyncio.to_thread(rdp_proxy, command, "--json", STATE_DIRECTORY=state)
    assert done.returncode == 0, done.stderr + done.stdout
    return {row["host"]: row for row in json.loads(done.stdout)[command]}


async def test_the_inventory_equals_what_openssl_prints_and_canaries_reach_all(
    tmp_path: Path, screen: Display
) -> None:
    async with (
        Farm.start(hosts=len(VERSIONS), base="127.77.20.") as farm,
        xrdp("xrdp01", "127.77.20.101", "203040", tmp_path / "xrdp") as real,
        nla_only_host("127.77.20.102", screen, tmp_path / "shadow") as shadow,
    ):
        limit_versions(farm)
        assert refusal_of_plain_tls(shadow.address) == FailureCode.HYBRID_REQUIRED_BY_SERVER
        addresses = {name: host.address for name, host in farm.hosts.items()}
        addresses |= {"xrdp01": real.address, "shadow01": shadow.address}
        pool = {
            "health": {"check": "tls", "interval": "1s", "timeout": "3s"},
            "hosts": [
                {"name": name, "address": str(address)} for name, address in addresses.items()
            ],
        }
        (tmp_path / "proxy").mkdir()
        async with running(farm, tmp_path / "proxy", pool=pool, canary={"interval": "1s"}) as proxy:

            async def all_known() -> bool:
                return await proxy.metric("canary_up") == len(addresses)

            await proxy.until(all_known)
            assert list(proxy.events("canary_failed")) == []
            inventory = await asked(proxy, "certificates")
            canary = await asked(proxy, "canary")
        assert inventory.keys() == canary.keys() == addresses.keys()
        for name, address in addresses.items():
            said = await certificate_of(address)
            known = inventory[name]["certificate"]
            assert (known["sha256"], known["sha1"]) == (said["sha256"], said["sha1"]), name
            assert (known["subject"], known["issuer"]) == (said["subject"], said["issuer"])
            for key, printed in (("not_before", "notBefore"), ("not_after", "notAfter")):
                assert known[key].replace("T", " ") == said[printed], name
            kind, _, size = known["key"].partition(" ")
            assert said["bits"] == (size if kind == "RSA" else "256")
            assert known["self_signed"] is (said["subject"] == said["issuer"])
        files = {"xrdp01": real.directory / "certificate.pem", "shadow01": shadow.certificate_file}
        for name, file in files.items():
            assert inventory[name]["certificate"]["sha256"] == await fingerprint(file.read_text())
        for name, (_, version) in VERSIONS.items():
            assert (inventory[name]["tls"], inventory[name]["answer"]) == (version, "ssl")
        assert inventory["xrdp01"]["answer"] == "ssl"
        assert inventory["shadow01"]["answer"] == "hybrid"
        assert "dynvc_gfx" in inventory["shadow01"]["flags"]


async def test_probe_shows_what_openssl_prints(tmp_path: Path) -> None:
    async with xrdp("xrdp01", "127.77.20.103", "203040", tmp_path / "xrdp") as real:
        done = await asyncio.to_thread(rdp_proxy, "probe", str(real.address))
        said = await certificate_of(real.address)
    assert done.returncode == 0
    assert f"sha256       {said['sha256']}" in done.stdout
