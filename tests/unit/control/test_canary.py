"""The canary's verdicts, before a front that sends its tokens wherever the test wants."""

from __future__ import annotations

import asyncio

import pytest

from proxy.address import Address
from proxy.control.probe import probe_tls
from proxy.lab.certificates import self_signed
from proxy.lab.session_host import SessionHost
from proxy.wire.x224 import (
    FailureCode,
    NegotiationFailure,
    NegotiationResponse,
    Protocol,
    ResponseFlag,
    encode_connection_confirm,
)
from tests.servers.ports import free_port
from tests.streams import listening
from tests.unit.control.canary_house import house


async def test_hosts_that_answer_their_token_are_up(caplog: pytest.LogCaptureFixture) -> None:
    async with house(caplog, "127.78.15.") as here:
        await here.canary.round()
        assert here.samples() == {"rdsh01": 1, "rdsh02": 1}
        assert here.events() == []
        known = here.inventory.of(here.host("rdsh01"))
        assert known is not None
        assert known.der == here.farm.hosts["rdsh01"].certificate.der, "asked directly, once"
        visits = len(here.farm.visits)
        await here.canary.round()
        assert len(here.farm.visits) == visits + 2, "and no more"
        (row, _) = await here.shown()
        verdict = here.canary.of(here.host("rdsh01"))
        assert verdict is not None
        assert verdict.as_dict().items() <= row.items()
        assert row == {
            "pool": "desktops",
            "host": "rdsh01",
            "up": True,
            "listener": "rdp",
            "token_address": str(here.address_of("rdsh01")),
            "detail": None,
            "tested_at": "2027-01-15T08:00:00Z",
        }


async def test_another_hosts_certificate_is_told_with_its_owner_once(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.16.") as here:
        for name in ("rdsh01", "rdsh02"):
            host = here.host(name)
            here.inventory.checked(host, await probe_tls(here.address_of(name), 5.0))
        here.leads = lambda _: here.address_of("rdsh02")
        await here.canary.round()
        await here.canary.round()
        assert here.samples() == {"rdsh01": 0, "rdsh02": 1}
        (event,) = here.events()
        assert (event["event"], event["host"], event["listener"]) == (
            "canary_failed",
            "rdsh01",
            "rdp",
        )
        said = "another certificate answers: that of desktops/rdsh02, CN=rdsh02"
        assert event["detail"] == said
        here.leads = lambda host: host.address
        await here.canary.round()
        assert [event["event"] for event in here.events()] == ["canary_passed"]
        assert here.samples()["rdsh01"] == 1


async def test_a_certificate_that_nobody_knows_is_told_as_such(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.17.", hosts=1) as here:
        stranger = SessionHost(
            "x", Address("127.78.17.99", 0), self_signed("stranger"), here.farm.broker
        )
        await stranger.start()
        here.leads = lambda _: stranger.address
        await here.canary.round()
        (event,) = here.events()
        assert event["detail"].endswith("that of no known host, CN=stranger")
        await stranger.kill()


async def test_a_certificate_that_changed_since_the_last_check_is_no_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.18.", hosts=1) as here:
        old = await probe_tls(here.address_of("rdsh01"), 5.0)
        await here.farm.hosts["rdsh01"].kill()
        new = SessionHost(
            "rdsh01", here.address_of("rdsh01"), self_signed("rdsh01"), here.farm.broker
        )
        await new.start()
        here.inventory.checked(here.host("rdsh01"), old)
        await here.canary.round()
        assert here.samples() == {"rdsh01": 1}
        assert here.events() == []
        await new.kill()


async def test_what_the_front_refuses_is_told_in_its_words(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.19.", hosts=1) as here:
        here.leads = lambda _: "no host of listener rdp has the token's address"
        await here.canary.round()
        (event,) = here.events()
        assert event["detail"] == "no host of listener rdp has the token's address"


async def test_a_token_that_leads_to_another_host_is_a_fault_whatever_it_shows(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.20.") as here:
        here.passes_as = here.host("rdsh02")
        await here.canary.round()
        assert here.samples() == {"rdsh01": 0, "rdsh02": 1}
        assert [event["detail"] for event in here.events()] == [
            "the token leads to desktops/rdsh02"
        ]


async def test_a_listener_that_does_not_answer_is_a_fault(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.21.", hosts=1) as here:
        here.doors = [here.doors[0]._replace(address=Address("127.0.0.1", free_port()))]
        await here.canary.round()
        assert [event["detail"] for event in here.events()] == [
            "the listener does not answer: no connection: Connection refused"
        ]
        elsewhere = Address("192.0.2.1", 3389)  # no address of this machine
        here.doors = [here.doors[0]._replace(address=elsewhere)]
        await here.canary.round()
        (event,) = here.events()
        assert "Cannot assign requested address" in event["detail"]


@pytest.mark.parametrize(
    ("answer", "up"),
    [
        (None, 1),
        (
            NegotiationResponse(ResponseFlag.EXTENDED_CLIENT_DATA, Protocol.RDP),
            1,
        ),  # as xrdp says it
        (NegotiationFailure(FailureCode.SSL_NOT_ALLOWED_BY_SERVER), 1),  # as Windows says it
        (NegotiationResponse(0, Protocol.SSL), 0),  # and then there is no TLS
        (NegotiationFailure(FailureCode.SSL_CERT_NOT_ON_SERVER), 0),
    ],
)
async def test_only_a_host_of_standard_security_passes_without_a_certificate(
    caplog: pytest.LogCaptureFixture,
    answer: NegotiationResponse | NegotiationFailure | None,
    up: int,
) -> None:
    async with house(caplog, "127.78.22.", hosts=1) as here:
        await here.farm.hosts["rdsh01"].kill()

        async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.read(100)
            writer.write(encode_connection_confirm(answer))
            await reader.read(100)

        async with listening(plain, *here.address_of("rdsh01")):
            await here.canary.round()
            assert here.samples() == {"rdsh01": up}
        await here.canary.round()
        assert here.samples() == {"rdsh01": 0}
        assert here.events()[0]["detail"].startswith("no certificate: ")


async def test_each_address_that_a_token_may_name_is_tried_at_each_listener(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.23.", hosts=1) as here:
        host = here.host("rdsh01")
        other, third = Address("192.0.2.21", 3389), Address("2001:db8::21", 3389)
        host.names = host.names | {other, third}
        here.routes.index()
        here.doors *= 2
        await here.canary.round()
        assert here.tried == [host.address, other] * 2
        here.tried.clear()
        here.doors = [here.doors[0]]
        here.leads = lambda host: "no" if here.tried[-1] == other else host.address
        await here.canary.round()
        (event,) = here.events()
        assert event["token_address"] == str(other)


async def test_a_host_without_an_ipv4_address_cannot_be_tested(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with house(caplog, "127.78.24.", hosts=1) as here:
        host = here.host("rdsh01")
        host.address = Address("2001:db8::21", 3389)
        host.names = frozenset([host.address])
        await here.canary.round()
        assert (here.samples(), here.tried, here.events()) == ({}, [], [])
        (row,) = await here.shown()
        assert (row["up"], row["token_address"]) == (None, None)
        assert row["detail"] == "no token can name it: tokens hold IPv4 addresses"
