"""Real clients that refuse a certificate: the size of their connection tells."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from proxy.routing.signs import GLANCE_DOWN_MIN_BYTES, GLANCE_UP_MAX_BYTES
from proxy.wire.tokens import encode_msts
from tests.interop.clients import Computer, pins
from tests.interop.display import display
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
        first, second = hosts
        computer = Computer("desk", tmp_path / "desk")
        await computer.freerdp_login(proxy.address, display=screen)
        await proxy.until_ended(1)
        token = "/load-balance-info:" + encode_msts(second.address).decode()
        for expected in (first, second):  # the certificate that the client was told to expect
            login = ("/u:alice", "/log-level:DEBUG", token, pins(expected.fingerprint))
            async with computer.freerdp(proxy.address, *login, display=screen) as client:
                if expected is second:
                    await client.until_says("--> CONNECTION_STATE_ACTIVE")
                else:
                    await client.ended()
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
        for _ in hosts:
            async with computer.rdesktop(proxy.address, display=screen) as client:
                await client.ended()
        assert [is_small(line) for line in await proxy.until_ended(2)] == [True, True]
        (suspected,) = proxy.events("suspected_certificate_mismatch")
        assert (suspected["host"], suspected["previous_host"]) == ("rdsh02", "rdsh01")
