"""Real clients that refuse a certificate: the size of their connection tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from proxy.routing.signs import GLANCE_DOWN_MIN_BYTES, GLANCE_UP_MAX_BYTES
from proxy.wire.tokens import encode_msts
from tests.interop.clients import Computer, pins
from tests.interop.display import display
from tests.interop.shadow import nla_only_host
from tests.interop.xrdp import xrdp
from tests.interop.xrdp_farm import proxy_before, two_xrdp_hosts


def is_small(line: dict[str, Any]) -> bool:
    return bool(
        line["bytes_up"] <= GLANCE_UP_MAX_BYTES and line["bytes_down"] >= GLANCE_DOWN_MIN_BYTES
    )


async def test_a_client_that_refuses_the_certificate_behind_its_token_is_suspected(
    tmp_path: Path,
) -> None:
    async with (
        two_xrdp_hosts(tmp_path) as hosts,
        proxy_before(hosts, tmp_path) as proxy,
        display(tmp_path / "display") as screen,
    ):
        second = hosts[1]
        computer = Computer("desk", tmp_path / "desk")
        await computer.freerdp_login(proxy.address, display=screen)
        await proxy.until_ended(1)
        token = "/load-balance-info:" + encode_msts(second.address).decode()
        for number, expected in enumerate(hosts, 2):  # whose certificate is expected
            login = ("/u:alice", "/log-level:DEBUG", token, pins(expected.fingerprint))
            async with computer.freerdp(proxy.address, *login, display=screen) as client:
                if expected is second:
                    await client.until_says("--> CONNECTION_STATE_ACTIVE")
                else:
                    await client.ended()
            await proxy.until_ended(number)
        logged_in, refused, accepted = await proxy.until_ended(3)
        assert [is_small(line) for line in (logged_in, refused, accepted)] == [False, True, False]
        (suspected,) = proxy.events("suspected_certificate_mismatch")
        assert suspected["id"] == refused["id"]
        assert (suspected["host"], suspected["previous_host"]) == ("rdsh02", "rdsh01")


async def test_a_client_that_refuses_the_second_host_after_the_first_is_suspected(
    tmp_path: Path,
) -> None:
    """Pinned to nothing, rdesktop asks about each host's certificate, and hears no answer."""
    async with (
        two_xrdp_hosts(tmp_path) as hosts,
        proxy_before(hosts, tmp_path, affinity={"key": "none"}) as proxy,
        display(tmp_path / "display") as screen,
    ):
        computer = Computer("desk", tmp_path / "desk")
        for number, _ in enumerate(hosts, 1):
            async with computer.rdesktop(proxy.address, display=screen) as client:
                await client.ended()
            await proxy.until_ended(number)
        assert [is_small(line) for line in await proxy.until_ended(2)] == [True, True]
        (suspected,) = proxy.events("suspected_certificate_mismatch")
        assert (suspected["host"], suspected["previous_host"]) == ("rdsh02", "rdsh01")


@pytest.mark.parametrize("tls", ["TLSv1.2", "TLSv1.3"])
async def test_a_refused_certificate_is_small_and_a_login_is_not(tmp_path: Path, tls: str) -> None:
    async with (
        xrdp("rdsh01", "127.77.9.1", "203040", tmp_path / "rdsh01", tls) as host,
        proxy_before([host], tmp_path) as proxy,
        display(tmp_path / "display") as screen,
    ):
        computer = Computer("desk", tmp_path / "desk")
        async with computer.freerdp(proxy.address, "/u:alice", "/cert:deny", display=screen) as one:
            await one.ended()
        await proxy.until_ended(1)
        async with computer.rdesktop(proxy.address, display=screen) as two:
            await two.ended()
        await proxy.until_ended(2)
        await computer.freerdp_login(proxy.address, display=screen)
        ended = await proxy.until_ended(3)
        assert [is_small(line) for line in ended] == [True, True, False]
        assert {line["answer"] for line in ended} == {"ssl"}
        assert not list(proxy.events("suspected_certificate_mismatch")), "it is one host"


async def test_with_nla_too_a_wrong_password_is_more_than_a_refused_certificate(
    tmp_path: Path,
) -> None:
    async with (
        display(tmp_path / "display") as screen,
        nla_only_host("127.77.9.3", screen, tmp_path / "shadow") as host,
        proxy_before([host], tmp_path) as proxy,
    ):
        computer = Computer("desk", tmp_path / "desk")
        for number, trust in enumerate(("/cert:deny", "/cert:ignore"), 1):
            login = ("/u:alice", "/p:wrong", trust)
            async with computer.freerdp(proxy.address, *login, display=screen) as client:
                await client.ended()
            await proxy.until_ended(number)
        ended = await proxy.until_ended(2)
        assert [is_small(line) for line in ended] == [True, False]
        assert {line["answer"] for line in ended} == {"hybrid"}
