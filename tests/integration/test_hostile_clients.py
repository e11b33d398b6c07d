"""Strangers: whatever they send, no host sees it, and nobody else waits for it."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.session_host import Stage
from proxy.wire.tokens import encode_msts
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running
from tests.patience import PATIENCE_S
from tests.streams import listening

CR = encode_connection_request(line=b"Cookie: mstshash=eve", requested_protocols=3)
HELLO = bytes.fromhex("16030100c8010000c40303") + bytes(190)

UNFINISHED: dict[str, tuple[bytes, str]] = {
    "nothing": (b"", "timeout"),
    "one_byte": (b"\x03", "timeout"),
    "one_wrong_byte": (b"X", "timeout"),
    "half_a_request": (CR[:20], "timeout"),
    "all_but_a_byte": (CR[:-1], "timeout"),
}
MALFORMED: dict[str, tuple[bytes, str]] = {
    "http": (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", "not_tpkt"),
    "tls_hello": (HELLO, "not_tpkt"),
    "ssh": (b"SSH-2.0-OpenSSH_9.6\r\n", "not_tpkt"),
    "smb": (bytes.fromhex("00000085ff534d4272000000001853c8"), "not_tpkt"),
    "zeros": (bytes(64), "not_tpkt"),
    "ff": (b"\xff" * 64, "not_tpkt"),
    "noise": (random.Random(1).randbytes(4096), "not_tpkt"),
    "tpkt_version_2": (b"\x02" + CR[1:], "not_tpkt"),
    "length_0": (b"\x03\x00\x00\x00" + CR[4:], "tpkt_length"),
    "length_7": (bytes.fromhex("0300000702e000"), "tpkt_length"),
    "length_10": (b"\x03\x00\x00\x0a" + CR[4:], "tpkt_length"),
    "length_4097": (b"\x03\x00\x10\x01" + CR[4:], "tpkt_length"),
    "length_65535": (b"\x03\x00\xff\xff" + CR[4:], "tpkt_length"),
    "length_too_long_by_one": (b"\x03\x00\x00" + bytes([len(CR) + 1]) + CR[4:], "indicator"),
    "length_too_short": (b"\x03\x00\x00\x0b" + CR[4:], "indicator"),
    "indicator_255": (bytes.fromhex("03000104ffe0") + bytes(254), "indicator"),
    "connection_confirm": (bytes.fromhex("030000130ed000000000000100080003000000"), "request"),
    "data_tpdu": (bytes.fromhex("0300000c06f0000000000000"), "indicator"),
    "preconnection": (bytes.fromhex("100000000000000001000000eb99c6ee") + CR, "preconnection"),
    "proxy_v1": (b"PROXY TCP4 192.0.2.1 192.0.2.2 50000 3389\r\n" + CR, "proxy_header_refused"),
}


async def until_closed(address: Address, sent: bytes) -> bytes:
    """Send something and wait for the end; what came back."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        writer.write(sent)
        async with asyncio.timeout(PATIENCE_S):
            return await reader.read()
    except ConnectionError:
        return b""
    finally:
        writer.close()


@pytest.fixture
async def farm() -> AsyncIterator[Farm]:
    async with Farm.start(hosts=2) as started:
        yield started


@pytest.mark.parametrize(
    ("messages", "within"), [(UNFINISHED, "1s"), (MALFORMED, "600s")], ids=["unfinished", "whole"]
)
async def test_no_malformed_message_reaches_a_host_and_each_is_counted_by_its_cause(
    tmp_path: Path, farm: Farm, messages: dict[str, tuple[bytes, str]], within: str
) -> None:
    calm = {"pool": {"health": {"check": "tcp", "interval": "1h"}}}
    async with running(farm, tmp_path, timeouts={"connection_request": within}, **calm) as proxy:
        async with asyncio.TaskGroup() as tasks:
            closing = {
                name: tasks.create_task(until_closed(proxy.address, sent))
                for name, (sent, _) in messages.items()
            }
        assert {name: task.result() for name, task in closing.items()} == dict.fromkeys(
            messages, b""
        )
        ended = await proxy.until_ended_by_metric(len(messages))
        assert ended == len(messages)
        for cause in {cause for _, cause in messages.values()}:
            wanted = sum(other == cause for _, other in messages.values())
            full = {
                "indicator": "length_indicator",
                "request": "not_connection_request",
                "preconnection": "preconnection_blob",
            }.get(cause, cause)
            counted = await proxy.metric("connections_ended_total", phase="request", cause=full)
            assert counted == wanted, full
        assert [visit for visit in farm.visits if visit.stage is not Stage.ACCEPTED] == []
        assert await proxy.metric("connections_placed_total") == 0


async def test_a_token_never_makes_the_proxy_dial_what_is_not_a_host(
    tmp_path: Path, farm: Farm
) -> None:
    host = next(iter(farm.hosts.values())).address
    dialled: list[object] = []

    async def spring(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        dialled.append(writer.get_extra_info("peername"))

    async with listening(spring, "127.66.0.1") as trap, running(farm, tmp_path) as proxy:
        targets = [
            trap,
            *(Address(f"127.66.0.{n}", host.port) for n in range(2, 30)),
            *(Address(host.host, n) for n in (1, 22, 80, 443, 3389, 3390, 5985, 65535)),
            *(Address(ip, 3389) for ip in ("169.254.169.254", "10.0.0.1", "192.168.1.1")),
            *(Address(ip, 80) for ip in ("8.8.8.8", "255.255.255.255", "224.0.0.1")),
        ]
        assert len(targets) == 43
        for target in targets:
            request = encode_connection_request(line=encode_msts(target), requested_protocols=3)
            assert await until_closed(proxy.address, request) == b""
        assert not dialled
        assert await proxy.metric("tokens_total", fate="unknown_host") == len(targets)
        assert await proxy.metric("connections_placed_total") == 0
        lines = await proxy.until_ended(10)
        assert lines[0]["token_address"] == str(targets[0])
        assert {line["cause"] for line in lines} == {"token_unknown_host"}
        assert not any("attempts" in line for line in lines)


async def drip(proxy: RunningProxy, number: int) -> bool:
    """Send a byte now and then; whether the proxy ended it."""
    reader, writer = await asyncio.open_connection(*proxy.address)
    try:
        async with asyncio.timeout(PATIENCE_S):
            for byte in CR[:-1] if number % 2 else b"":
                if reader.at_eof() or writer.is_closing():
                    break
                writer.write(bytes([byte]))
                await asyncio.sleep(0.25)
            return await reader.read() == b""
    except ConnectionError:
        return True
    finally:
        writer.close()


async def test_idle_and_dripping_connections_do_not_hold_up_logins_and_are_ended(
    tmp_path: Path, farm: Farm
) -> None:
    async with running(farm, tmp_path, timeouts={"connection_request": "10s"}) as proxy:
        async with asyncio.TaskGroup() as tasks:
            dripping = [tasks.create_task(drip(proxy, number)) for number in range(200)]
            await asyncio.sleep(0.2)
            for number in range(100):
                client = farm.client(proxy.address, f"user{number}", source=f"127.26.0.{number}")
                result = await client.login()
                assert result.ok, result.words()
        assert all(task.result() for task in dripping)
        ended = await proxy.metric("connections_ended_total", phase="request", cause="timeout")
        assert ended == 200


async def test_a_balancers_probe_is_counted_and_not_logged(tmp_path: Path, farm: Farm) -> None:
    async with running(farm, tmp_path) as proxy:
        for _ in range(20):
            _, writer = await asyncio.open_connection(*proxy.address)
            writer.close()
            await writer.wait_closed()
        await proxy.until_ended_by_metric(20)
        cause = "closed_before_request"
        assert await proxy.metric("connections_ended_total", cause=cause) == 20
        assert list(proxy.events("connection_ended")) == []
