"""The command line: exit codes, one-line errors, and what each command prints."""

from __future__ import annotations

import asyncio
import json
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from proxy import __version__, cli
from proxy.control.http import Readiness
from proxy.control.names import KEY_FILE, hash_user, load_key
from proxy.lab.farm import Farm
from tests.unit.control.farm import FARM
from tests.unit.control.test_http import public, serving
from tests.unit.rdp_proxy import rdp_proxy


@pytest.fixture
def config(tmp_path: Path) -> str:
    path = tmp_path / "farm.yaml"
    path.write_text(FARM)
    return str(path)


def test_version_is_the_packages() -> None:
    done = rdp_proxy("--version")
    assert (done.returncode, done.stdout) == (0, f"rdp-proxy {__version__}\n")


@pytest.mark.parametrize(
    "words",
    [
        [],
        ["nonsense"],
        ["check"],
        ["run"],
        ["routing-token", "shake", "x"],
        ["pins"],
        ["pins", "list", "-x"],
        ["pins", "set", "--client", "::1"],
    ],
)
def test_a_wrong_command_is_code_2(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(words)
    assert ended.value.code == 2
    assert "usage: rdp-proxy" in capsys.readouterr().err


def test_check_says_ok_and_counts(config: str) -> None:
    done = rdp_proxy("check", config)
    assert (done.returncode, done.stdout) == (0, f"{config}: ok, 2 listeners, 2 pools, 4 hosts\n")
    assert done.stderr == ""


def test_check_tells_what_would_change_against_another_file(config: str, tmp_path: Path) -> None:
    path = tmp_path / "new.yaml"
    path.write_text(
        f"{Path(config).read_text()}timeouts: {{connect: 7s}}\nrelay: {{processes: 3}}\n"
    )
    done = rdp_proxy("check", str(path), "--against", config)
    assert done.returncode == 0
    assert done.stdout.splitlines()[1:] == [
        f"2 changes against {config}",
        "  ~ relay.processes: auto -> 3 (with the next start or upgrade)",
        "  ~ timeouts.connect: 3s -> 7s",
    ]
    same = rdp_proxy("check", config, "--against", config)
    assert same.stdout.splitlines()[1:] == [f"0 changes against {config}"]
    assert rdp_proxy("check", config, "--against", "/nowhere").returncode == 2
    text = Path(config).read_text().replace("127.0.0.1:0", "127.0.0.1:9389")
    path.write_text(text + 'metrics: {bind: "127.0.0.1:9390"}\n')
    refused = rdp_proxy("check", str(path), "--against", config)
    assert (refused.returncode, refused.stderr.count("a reload refuses it: listener")) == (1, 1)


def test_check_tells_all_problems_with_their_places(tmp_path: Path) -> None:
    path = tmp_path / "bad.yaml"
    path.write_text(
        FARM.replace("pool: tools", "pool: tolls").replace("balance: hash", "balance: x")
    )
    done = rdp_proxy("check", str(path))
    assert (done.returncode, done.stdout) == (2, "")
    lines = done.stderr.splitlines()
    assert len(lines) == 2
    assert all(line.startswith(f"{path}:") for line in lines)


def test_check_tells_what_is_hardly_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "odd.yaml"
    path.write_text(
        FARM.replace("collections: {Tools: tools}", "").replace("pool: tools", "pool: desktops")
    )
    assert cli.main(["check", str(path)]) == 0
    told = capsys.readouterr()
    assert told.err.startswith(f"{path}: warning: pool 'tools'")
    assert ": ok, " in told.out


@pytest.mark.parametrize("command", [["check"], ["explain", "--client", "::1", "--config"]])
def test_a_file_that_is_missing_is_code_2(
    command: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = str(tmp_path / "none.yaml")
    assert cli.main([*command, path]) == 2
    assert capsys.readouterr().err.startswith(f"{path}:1:1: the file cannot be read")


def test_schema_is_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["schema"]) == 0
    assert "listeners" in json.loads(capsys.readouterr().out)["properties"]


def test_explain_tells_people_and_programs(config: str, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["explain", "--config", config, "--client", "203.0.113.7", "--token", "10.0.0.22"]
    assert cli.main(words) == 0
    assert "decides: token, rdsh02" in capsys.readouterr().out
    assert cli.main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["candidates"][0]["host"] == "rdsh02"


def test_explain_reads_a_request_from_standard_input(config: str) -> None:
    request = "0300000b 06e00000000000"
    done = rdp_proxy(
        "explain", "--config", config, "--client", "::1", "--request", "-", stdin=request
    )
    assert done.returncode == 0
    assert "11 bytes" in done.stdout


@pytest.mark.parametrize(
    ("request_hex", "code", "words"),
    [("474554", 1, "first byte is 0x47, not 3 (cause not_tpkt)"), ("xyz", 2, "not hexadecimal")],
)
def test_explain_says_why_a_request_is_none(
    config: str, request_hex: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ["explain", "--config", config, "--client", "::1", "--request", request_hex]
    assert cli.main(asked) == code
    told = capsys.readouterr().err
    assert told.startswith("rdp-proxy: ")
    assert words in told
    assert told.count("\n") == 1


async def test_probe_is_0_with_a_certificate_and_1_with_the_reason_without() -> None:
    async with Farm.start(hosts=1, base="127.78.6.") as farm:
        host = farm.hosts["rdsh01"]
        done = await asyncio.to_thread(rdp_proxy, "probe", str(host.address))
        assert (done.returncode, done.stderr) == (0, "")
        assert f"sha256       {host.certificate.fingerprint}" in done.stdout.splitlines()
        await host.kill()
        done = await asyncio.to_thread(rdp_proxy, "probe", str(host.address), "--json")
    assert (done.returncode, done.stderr) == (1, "")
    assert json.loads(done.stdout)["cause"] == "refused"


@pytest.mark.parametrize(
    ("words", "code", "said"),
    [
        (["10.0.0"], 2, "'10.0.0' is not an IPv4 address"),
        (["10.0.0.1", "--timeout", "5"], 2, "its unit is missing, as in 5s"),
        (["nobody.invalid"], 1, "nobody.invalid: "),
    ],
)
def test_probe_says_in_one_line_what_is_wrong(
    words: list[str], code: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["probe", *words]) == code
    error = capsys.readouterr().err
    assert said in error
    assert error.count("\n") == 1


def test_probe_visits_the_address_of_a_name_that_the_proxy_would(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def resolved(host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        stream = (socket.SOCK_STREAM, 6, "")
        six, four = ("::1", port, 0, 0), ("127.0.0.1", port)
        return [(socket.AF_INET6, *stream, six), (socket.AF_INET, *stream, four)]

    monkeypatch.setattr(socket, "getaddrinfo", resolved)
    assert cli.main(["probe", "both.example:1"]) == 1
    assert capsys.readouterr().out.startswith("host         both.example:1 (127.0.0.1:1)")


def test_a_routing_token_goes_both_ways() -> None:
    made = rdp_proxy("routing-token", "encode", "172.31.249.216")
    assert (made.returncode, made.stdout) == (0, "Cookie: msts=3640205228.15629.0000\n")
    read = rdp_proxy("routing-token", "decode", made.stdout)
    assert (read.returncode, read.stdout) == (0, "172.31.249.216:3389\n")


@pytest.mark.parametrize(
    ("act", "text", "code", "words"),
    [
        ("decode", "tsv://MS Terminal Services Plugin.1.Tools", 0, "collection Tools"),
        ("decode", "msts=1677787402.36895.0000", 0, "10.1.1.100:8080"),
        ("decode", "Cookie: msts=2282941292", 1, "rdp-proxy: the token names no host"),
        ("decode", "", 1, "rdp-proxy: the token is empty"),
        ("encode", "rdsh01.example", 2, "rdp-proxy: a routing token holds an IPv4 address"),
        ("encode", "[2001:db8::1]:3389", 2, "is IPv6"),
        ("encode", "10.0.0.1:99999", 2, "port 99999"),
    ],
)
def test_routing_tokens_are_read_or_refused_in_words(
    act: str, text: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["routing-token", act, text]) == code
    told = capsys.readouterr()
    assert words in (told.err if code else told.out)


async def test_health_is_0_when_ready_and_1_with_the_reason_when_not() -> None:
    for readiness, code in (
        (Readiness(True, 1, False, True, {}), 0),
        (Readiness(True, 1, True, True, {}), 1),
    ):
        async with serving(public(readiness)) as endpoint:
            url = f"http://{endpoint}/readyz"
            done = await asyncio.to_thread(rdp_proxy, "health", RDP_PROXY_HEALTH_URL=url)
            assert done.returncode == code
            said = done.stderr if code else done.stdout
            assert said == ("rdp-proxy: not ready: stopping\n" if code else "ready\n")


@pytest.mark.parametrize(
    ("url", "code", "words"),
    [
        ("http://127.0.0.1:1/readyz", 1, "refused"),
        ("https://127.0.0.1:1/readyz", 2, "--url is like"),
        ("127.0.0.1:1", 2, "--url is like"),
        ("http://localhost/readyz", 2, "not HOST:PORT"),
    ],
)
def test_health_says_in_one_line_what_is_wrong(
    url: str, code: int, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["health", "--url", url]) == code
    told = capsys.readouterr().err
    assert words in told
    assert told.count("\n") == 1


async def test_health_of_something_else_names_its_status(
    capsys: pytest.CaptureFixture[str],
) -> None:
    async with serving({}) as endpoint:
        words = ["health", "--url", f"http://{endpoint}/nothing"]
        assert await asyncio.to_thread(cli.main, words) == 1
    assert capsys.readouterr().err == "rdp-proxy: not ready: HTTP status 404\n"


def test_health_starts_without_the_heavy_libraries() -> None:
    code = (
        "import sys; from proxy.cli import main; main(['health', '--url', 'http://127.0.0.1:1/']);"
        "heavy = {'pydantic', 'aiohttp', 'yaml', 'asyncio', 'uvloop', 'rich', 'prometheus_client'};"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert done.stdout == "[]\n"


def test_hash_user_finds_the_name_that_the_log_hides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    assert cli.main(["hash-user", "Alice"]) == 1
    assert "STATE_DIRECTORY" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [], "a key of its own would help nobody"
    key = load_key(tmp_path / KEY_FILE)
    assert cli.main(["hash-user", "Alice"]) == 0
    assert capsys.readouterr().out == hash_user(key, "alice") + "\n"


def test_a_reader_that_has_seen_enough_is_no_error() -> None:
    command = f"'{sys.executable}' -m proxy schema | head -c 1; echo ${{PIPESTATUS[0]}}"
    done = subprocess.run(
        ["bash", "-c", command],
        cwd=Path(__file__).parents[2],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert (done.stdout, done.stderr) == ("{0\n", "")


def test_an_interrupt_is_quiet(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def interrupted(_: Any) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, "_schema", interrupted)
    assert cli.main(["schema"]) == 130
    assert capsys.readouterr().err == ""
