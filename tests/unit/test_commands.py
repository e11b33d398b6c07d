"""Commands that ask a running proxy: tables, sentences, and what is refused."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from proxy import cli
from proxy.address import Address
from proxy.affinity.store import NEVER, PinKey
from proxy.control import pins
from proxy.control.admin import admin_routes
from proxy.control.probe import ProbeResult
from proxy.lab.certificates import self_signed
from proxy.routing.will import Pins, Will, Wish
from proxy.settings import AdminSettings, UnixPath
from proxy.wire.x224 import NegotiationResponse
from tests.patience import PATIENCE_S
from tests.unit.control.farm import FARM, connection
from tests.unit.control.test_http import serving
from tests.unit.control.test_pins import ALICE, BY_SOURCE, NOW, OWN, Desk, opened
from tests.unit.rdp_proxy import rdp_proxy


@pytest.fixture
async def desk(tmp_path: Path) -> AsyncIterator[Desk]:
    async with opened(UnixPath(str(tmp_path / "admin.sock"))) as desk:
        yield desk


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "farm.yaml"
    path.write_text(FARM)
    return str(path)


async def command(tmp_path: Path, *words: str) -> subprocess.CompletedProcess[str]:
    """Run a command against the admin socket in the state directory."""
    return await asyncio.to_thread(rdp_proxy, *words, STATE_DIRECTORY=str(tmp_path))


async def said(tmp_path: Path, *words: str) -> list[str]:
    """The lines of a command that goes well."""
    done = await command(tmp_path, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


@pytest.mark.usefixtures("desk")
async def test_hosts_are_a_table_for_people(tmp_path: Path) -> None:
    lines = await said(tmp_path, "hosts")
    assert lines[0].split()[:4] == ["pool", "host", "address", "configured"]
    assert " ".join(lines[1].split()) == "desktops rdsh01 10.0.0.21:3389 yes yes ready 100 0"
    assert len(lines) == 5
    assert len(await said(tmp_path, "hosts", "--pool", "desktops")) == 3


@pytest.mark.usefixtures("desk")
async def test_text_of_clients_is_no_markup_of_the_table(tmp_path: Path) -> None:
    assert "[bold]alice" in "".join(await said(tmp_path, "connections", "--client", "[bold]alice"))


async def test_certificates_are_a_table_with_dashes_for_what_is_unknown(
    desk: Desk, tmp_path: Path
) -> None:
    certificate = self_signed("rdsh01.example")
    host = desk.pools["desktops"].hosts[0]
    desk.inventory.checked(
        host,
        ProbeResult(True, None, "", 0.0, NegotiationResponse(1, 2), certificate.der, tls="TLSv1.3"),
    )
    lines = await said(tmp_path, "certificates", "--pool", "desktops")
    assert lines[0].split()[:4] == ["pool", "host", "answer", "tls"]
    assert " ".join(lines[1].split()).startswith(
        "desktops rdsh01 hybrid TLSv1.3 CN=rdsh01.example rdsh01.example yes 2124-01-01T00:00:00Z"
        f" {certificate.fingerprint[:12]} "
    )
    assert lines[2].split()[:6] == ["desktops", "rdsh02", *"----"]
    shown = json.loads("".join(await said(tmp_path, "certificates", "--host", "rdsh01", "--json")))
    assert shown["certificates"][0]["certificate"]["sha256"] == certificate.fingerprint


async def test_pins_are_listed_and_the_rest_is_told(desk: Desk, tmp_path: Path) -> None:
    await desk.fill({BY_SOURCE: "rdsh02"})
    await desk.fill({PinKey("tools", "user:bob"): "tool01"}, NEVER)
    lines = await said(tmp_path, "pins", "list", "--client", ALICE)
    assert " ".join(lines[1].split()) == f"desktops {BY_SOURCE.key} rdsh02 10 min 0 s ago"
    lines = await said(tmp_path, "pins", "list", "--user", "bob")
    assert " ".join(lines[1].split()) == "tools user:bob tool01 never 0 s ago"
    found = json.loads("".join(await said(tmp_path, "pins", "list", "--host", "tool01", "--json")))
    assert [pin["expires_in_s"] for pin in found["pins"]] == [None]
    done = await command(tmp_path, "pins", "list", "--limit", "1")
    assert done.stderr == "rdp-proxy: the first 1; there are more (--limit)\n"


async def test_a_pin_is_shown_in_words(desk: Desk, tmp_path: Path) -> None:
    await desk.fill({OWN: "rdsh02"}, 93_784.0)
    desk.live = {OWN: [connection(id=1, host="rdsh02"), connection(id=2), connection(id=3)]}
    words = ["pins", "show", "--client", ALICE, "--user", "alice", "--pool", "desktops"]
    assert await said(tmp_path, *words) == [
        "desktops: source:203.0.113.7 user:alice is pinned to rdsh02",
        "  it expires in 1 d 2 h; last used 0 s ago",
        "  live connections on this node: 1 on rdsh02, 2 on rdsh01",
        "desktops: no pin under source:203.0.113.7, the next connection is balanced",
        "  live connections on this node: none",
    ]
    (shown,) = json.loads("".join(await said(tmp_path, *words, "--json")))["pools"]
    assert [pin["host"] for pin in shown["pins"]] == ["rdsh02", None]


async def test_a_pool_that_pins_nobody_is_told(desk: Desk, tmp_path: Path) -> None:
    desk.files_by(key="none")
    lines = await said(tmp_path, "pins", "show", "--client", ALICE, "--pool", "desktops")
    assert lines == ["pool desktops pins nobody (its affinity.key is none)"]


async def test_a_pin_is_set_and_what_holds_now_is_told(desk: Desk, tmp_path: Path) -> None:
    words = ["pins", "set", "--user", "bob", "--host", "tool02", "--ttl", "never"]
    assert (await said(tmp_path, *words))[:2] == [
        "tools: user:bob is pinned to tool02",
        "  it never expires; last used 0 s ago",
    ]
    assert await desk.host_of(PinKey("tools", "user:bob")) == "tool02"
    done = await command(tmp_path, *words[:-1], "7d", "--pool", "tools")
    assert done.returncode == 0
    done = await command(tmp_path, "pins", "set", "--user", "bob", "--host", "tool01")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("rdp-proxy: pinned to tool02 without expiry: clear it first")


async def test_a_host_is_drained_and_windows_is_remembered(desk: Desk, tmp_path: Path) -> None:
    desk.pools["desktops"].by_name["rdsh01"].live = 2
    lines = await said(tmp_path, "drain", "rdsh01", "--pins", "live", "--deadline", "8h", "--close")
    assert lines == [
        "desktops: rdsh01 drains, pins: live, deadline in 8 h, then all are closed; "
        "2 connections on this node",
        "Windows is not told by this. The broker goes on by its own list, and so does the host:",
        "  on the broker:  Set-RDSessionHost -SessionHost rdsh01 -NewConnectionAllowed No",
        "  on rdsh01:  change logon /drain",
    ]
    wish = desk.pools["desktops"].by_name["rdsh01"].wish
    assert (wish.will, wish.pins, wish.close) == (Will.DRAIN, Pins.LIVE, True)
    lines = await said(tmp_path, "ready", "tool02")
    assert lines[0] == "tools: tool02 is ready; 0 connections on this node"
    assert lines[2:] == [
        "  on the broker:  Set-RDSessionHost -SessionHost tool02 -NewConnectionAllowed Yes",
        "  on tool02:  change logon /enable",
    ]
    (row, *_) = json.loads("".join(await said(tmp_path, "hosts", "--json")))["hosts"]
    assert (row["will"], row["pins"], row["deadline_s"]) == ("drain", "live", 28800.0)
    assert "0 s ago" in (await said(tmp_path, "hosts"))[1]


async def test_windows_knows_no_adopted_host_by_its_brackets(desk: Desk, tmp_path: Path) -> None:
    for address in ("10.0.0.99", "2001:db8::9"):
        desk.pools["desktops"].adopt(f"[{address}]", Address(address, 3389))
        lines = await said(tmp_path, "maintenance", f"[{address}]")
        assert lines[2:] == [
            f"  on the broker:  Set-RDSessionHost -SessionHost {address} -NewConnectionAllowed No",
            f"  on {address}:  change logon /drain",
        ]


async def test_a_drain_may_be_waited_for(desk: Desk, tmp_path: Path) -> None:
    host = desk.pools["desktops"].by_name["rdsh01"]
    host.live = 1
    waiting = asyncio.create_task(command(tmp_path, "drain", "rdsh01", "--wait"))
    await desk.wished.wait()
    host.live = 0
    await desk.wills.keeper.tick()
    desk.wills.keeper.wall = lambda: NOW + 60  # no other node has said anything
    done = await waiting
    assert done.returncode == 0
    assert done.stderr.splitlines()[-1] == "rdp-proxy: rdsh01 is empty"


async def test_who_waits_for_a_drain_waits_for_a_front_that_is_started_again(
    desk: Desk, tmp_path: Path
) -> None:
    path, aside = tmp_path / "admin.sock", tmp_path / "aside"
    desk.pools["desktops"].by_name["rdsh01"].live = 1
    waiting = asyncio.create_task(command(tmp_path, "drain", "rdsh01", "--wait"))
    await desk.wished.wait()
    path.rename(aside)
    with socket.socket(socket.AF_UNIX) as nobody:
        nobody.bind(str(path))
        nobody.listen()
        asked, _ = await asyncio.to_thread(nobody.accept)
        asked.close()
    desk.pools["desktops"].by_name["rdsh01"].live = 0
    await desk.wills.keeper.tick()
    desk.wills.keeper.wall = lambda: NOW + 60
    aside.rename(path)
    done = await waiting
    assert done.returncode == 0, done.stderr


async def test_a_drain_that_comes_to_nothing_is_an_error(desk: Desk, tmp_path: Path) -> None:
    host = desk.pools["desktops"].by_name["rdsh01"]
    host.live = 1
    done = await command(tmp_path, "drain", "rdsh01", "--wait", "--deadline", "0")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "rdp-proxy: the deadline is over: 1 connection left on this node",
    )
    host = desk.pools["desktops"].by_name["rdsh02"]
    host.live = 1
    desk.wished.clear()
    waiting = asyncio.create_task(command(tmp_path, "drain", "rdsh02", "--wait"))
    async with asyncio.timeout(PATIENCE_S):
        await desk.wished.wait()
    host.wish, host.live = Wish(), 0
    done = await waiting
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        1,
        "rdp-proxy: rdsh02 is ready again",
    )


async def test_a_weight_is_changed_and_a_host_taken_out(desk: Desk, tmp_path: Path) -> None:
    lines = await said(tmp_path, "weight", "rdsh01", "50")
    assert lines == ["desktops: rdsh01 has weight 50"]
    assert " 50, not 100 " in (await said(tmp_path, "hosts"))[1]
    lines = await said(tmp_path, "maintenance", "rdsh01", "--close", "--pool", "desktops")
    assert lines[0] == "desktops: rdsh01 is in maintenance; 0 connections on this node"
    assert desk.pools["desktops"].by_name["rdsh01"].weight == 50


@pytest.mark.usefixtures("desk")
@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["drain", "RDSH09"], "there is no host 'RDSH09' in any pool; like it: rdsh02, rdsh01"),
        (["ready", "xy"], "no host 'xy' in any pool; there are: rdsh01, rdsh02, tool01, tool02"),
        (["hosts", "--pool", "tool"], "there is no pool 'tool'; like it: tools"),
        (["connections", "--host", "tool1"], "like it: tool01, tool02"),
        (["drain", "rdsh01", "--pins", "all"], "pins is one of keep, live, drop, not 'all'"),
        (["drain", "rdsh01", "--deadline", "8"], "its unit is missing, as in 8s"),
        (["drain", "rdsh01", "--close"], "close needs a deadline"),
        (["weight", "rdsh01", "much"], "weight is a whole number from 0 to 10000"),
        (["pins", "set", "--user", "bob", "--host", "tool3"], "like it: tool02, tool01"),
        (["pins", "set", "--client", "x", "--host", "rdsh01"], "client is an IP address"),
        (["pins", "show"], "a client or a user is wanted"),
        (["hosts", "--admin", "nowhere"], "'nowhere' is not HOST:PORT"),
    ],
)
async def test_a_value_that_makes_no_sense_is_code_2(
    tmp_path: Path, words: list[str], said: str
) -> None:
    done = await command(tmp_path, *words)
    assert (done.returncode, done.stdout) == (2, "")
    assert said in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    ("living", "told"),
    [
        (0, []),
        (1, ["1 connection of theirs lives on this node and will write its pin again"]),
        (2, ["2 connections of theirs live on this node and will write their pins again"]),
    ],
)
async def test_pins_are_cleared_and_counted(
    desk: Desk, tmp_path: Path, living: int, told: list[str]
) -> None:
    await desk.fill({BY_SOURCE: "rdsh01", OWN: "rdsh01"})
    desk.live = {BY_SOURCE: [connection(id=number) for number in range(living)]}
    lines = await said(tmp_path, "pins", "clear", "--host", "rdsh01")
    assert lines == ["2 pins cleared", *(f"{line} within a minute" for line in told)]
    assert await said(tmp_path, "pins", "clear", "--pool", "desktops") == ["0 pins cleared"]


async def test_a_long_clearing_goes_on_to_its_end(
    desk: Desk, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pins, "_CLEARING_S", 0.0)
    await desk.fill({PinKey("desktops", f"user:{number}"): "rdsh01" for number in range(100)})
    assert await said(tmp_path, "pins", "clear", "--pool", "desktops") == ["100 pins cleared"]


@pytest.mark.usefixtures("desk")
async def test_what_the_proxy_refuses_is_told(tmp_path: Path) -> None:
    done = await command(tmp_path, "pins", "list", "--limit", "many")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == "rdp-proxy: limit is a whole number, not 'many'\n"


async def test_the_configuration_tells_where_the_proxy_is_and_its_bearer(
    desk: Desk, tmp_path: Path, config: str
) -> None:
    bearer = tmp_path / "bearer"
    bearer.write_text("secret\n")
    settings = AdminSettings(bind=Address("127.0.0.1", 0), bearer_file=str(bearer))
    async with serving(admin_routes(desk.views(), settings)) as endpoint:
        admin = f"\nadmin: {{bind: '{endpoint}', bearer_file: '{bearer}'}}\n"
        await asyncio.to_thread(Path(config).write_text, FARM + admin)
        done = await asyncio.to_thread(rdp_proxy, "hosts", "--config", config, "--json")
        assert (done.returncode, done.stderr) == (0, "")
        assert len(json.loads(done.stdout)["hosts"]) == 4
        done = await asyncio.to_thread(rdp_proxy, "hosts", "--admin", endpoint)
        assert done.stderr == "rdp-proxy: a bearer token is needed\n"


def test_a_proxy_that_does_not_run_is_told(tmp_path: Path) -> None:
    done = rdp_proxy("pins", "list", STATE_DIRECTORY=str(tmp_path))
    assert done.returncode == 1
    assert done.stderr == (
        f"rdp-proxy: unix:{tmp_path}/admin.sock: No such file or directory;"
        " does the proxy run? STATE_DIRECTORY or --admin tells where it is\n"
    )


def test_an_admin_endpoint_that_is_off_is_told(
    config: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Path(config).write_text(FARM + "\nadmin: {bind: off}\n")
    assert cli.main(["hosts", "--config", config]) == 1
    assert capsys.readouterr().err == f"rdp-proxy: {config}: admin.bind is off\n"
