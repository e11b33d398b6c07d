"""The demonstration as a person starts it, with every balancer as a process of its own."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from contextlib import suppress
from pathlib import Path

import pytest

from proxy.address import Address
from proxy.lab.contenders import CONTENDERS
from proxy.lab.farm import Farm
from proxy.lab.link import Link
from tests.patience import PATIENCE_S
from tests.servers.ports import free_port


async def demo(*words: str) -> tuple[int | None, str, str]:
    """Run `rdp-proxy demo`: exit code, output, errors."""
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "demo", *words),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(5 * PATIENCE_S):  # for three balancers, one after the other
            out, errors = await child.communicate()
    finally:
        with suppress(ProcessLookupError):
            child.kill()
    return child.returncode, out.decode(), errors.decode()


@pytest.mark.parametrize(
    "words", [[], ["--nat"], ["--nat", "0.5", "--seed", "9"]], ids=["roaming", "nat", "mixed"]
)
async def test_no_login_fails_through_rdp_proxy_where_plain_balancers_fail_many(
    words: list[str],
) -> None:
    code, out, errors = await demo("--users", "20", "--logins", "2", "--json", *words)
    assert code == 0, errors
    round_robin, sticky, own = json.loads(out)["runs"]
    assert own["balancer"] == "rdp-proxy"
    assert (own["logins"], own["failed"], own["tokens_misrouted"]) == (40, 0, 0)
    assert own["tokens"] > 0
    assert round_robin["failed"] > 20
    assert sticky["tokens_misrouted"] > 0


async def test_the_table_and_the_traces_are_plain_text_where_there_is_no_terminal() -> None:
    code, out, errors = await demo("--users", "6", "--logins", "2", "--hosts", "3")
    assert code == 0, errors
    assert "\x1b" not in out
    assert re.search(r"rdp-proxy\W+12\W+0\W", out), out
    assert out.count("logs in from") == 3


@pytest.mark.parametrize("name", CONTENDERS)
async def test_a_contender_leaves_nothing_behind(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    async with Farm.start(hosts=2) as farm:
        async with CONTENDERS[name](farm) as address:
            assert (await farm.client(address, "alice").login()).legs[0].reached
        with pytest.raises(ConnectionRefusedError):
            await Link.dial(address)
    assert list(tmp_path.iterdir()) == []


async def test_serve_tells_how_to_connect_and_ends_with_ctrl_c() -> None:
    port = free_port()
    child = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "proxy", "demo", "--serve", "--port", str(port)),
        stdout=asyncio.subprocess.PIPE,
        env=os.environ | {"PYTHONUNBUFFERED": "1"},
    )
    assert child.stdout is not None
    address = Address("127.0.0.1", port)
    async with asyncio.timeout(PATIENCE_S), Farm.start(hosts=1) as another:
        told = ""
        while "Ctrl-C" not in told:
            told = (await child.stdout.readline()).decode()
            if "xfreerdp" in told:
                assert f"/v:{address}" in told
        # Its certificates are strangers to this farm's directory: only the outcome counts.
        assert (await another.client(address, "alice").login()).ok
        while "alice" not in told or "active" not in told:
            told = (await child.stdout.readline()).decode()
        assert told.startswith("rdsh04: alice (Cookie: msts=")
        child.send_signal(signal.SIGINT)
        assert await child.wait() == 0
