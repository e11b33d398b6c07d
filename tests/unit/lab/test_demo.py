"""The demonstration: figures, shape of the JSON, exit codes, and what is shown."""

from __future__ import annotations

import argparse
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from proxy.address import Address
from proxy.lab import demo
from proxy.lab.balancers import balance
from proxy.lab.contenders import Contender, ContenderError
from proxy.lab.farm import Farm

KEYS = [
    "balancer",
    "logins",
    "failed",
    "unexpected_certificate",
    "tokens",
    "tokens_misrouted",
    "added_ms_p50",
    "added_ms_p99",
]


def contender(kind: str, hosts: int | None = None) -> Contender:
    """A plain balancer in this process, in front of all hosts or of the first ones."""

    @asynccontextmanager
    async def run(farm: Farm) -> AsyncIterator[Address]:
        addresses = [host.address for host in farm.hosts.values()][:hosts]
        async with balance(kind, Address("127.0.0.1", 0), addresses) as address:
            yield address

    return run


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    demo.add_arguments(parser)
    return parser.parse_args(["--users", "20", "--logins", "2", *words])


def test_both_plain_balancers_fail_logins_and_the_json_says_how_many(
    capsys: pytest.CaptureFixture[str],
) -> None:
    plain = {"round_robin": contender("round_robin"), "sticky": contender("sticky")}
    assert demo.main(options("--json"), plain) == 0
    runs = json.loads(capsys.readouterr().out)["runs"]
    assert [list(run) for run in runs] == [KEYS, KEYS]
    assert [run["balancer"] for run in runs] == ["round_robin", "sticky"]
    for run in runs:
        assert run["logins"] == 40
        assert 0 < run["unexpected_certificate"] <= run["failed"]
    assert runs[0]["failed"] > 20
    assert runs[1]["tokens"] == runs[1]["tokens_misrouted"] > 0
    assert runs[1]["added_ms_p50"] <= runs[1]["added_ms_p99"]


def test_one_failed_login_through_the_proxy_is_exit_code_1(
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert demo.main(options(), {"rdp-proxy": contender("sticky")}) == 1
    told = capsys.readouterr().out
    assert "rdp-proxy: 40 of 40 logins" in told
    assert "failures by cause" in told
    assert "An unexpected server authentication certificate was received" in told


def test_no_failed_login_through_the_proxy_is_exit_code_0() -> None:
    contenders = {"rdp-proxy": contender("sticky")}
    assert demo.main(options("--redirect", "none"), contenders) == 0


def test_redirections_by_address_show_no_token_to_a_balancer(
    capsys: pytest.CaptureFixture[str],
) -> None:
    contenders = {"sticky": contender("sticky")}
    assert demo.main(options("--redirect", "address", "--nat", "--json"), contenders) == 0
    (run,) = json.loads(capsys.readouterr().out)["runs"]
    assert (run["failed"], run["tokens"]) == (0, 0)


def test_a_balancer_that_does_not_start_is_exit_code_1_and_says_why(
    capsys: pytest.CaptureFixture[str],
) -> None:
    @asynccontextmanager
    async def broken(farm: Farm) -> AsyncIterator[Address]:
        if farm.hosts:
            raise ContenderError("no such port [really]")
        yield Address("127.0.0.1", 1)

    assert demo.main(options(), {"rdp-proxy": broken}) == 1
    assert "no such port [really]" in capsys.readouterr().out


@pytest.mark.parametrize(
    "words", [["--hosts", "1"], ["--nat", "1.5"], ["--redirect", "sideways"], ["--users", "x"]]
)
def test_options_out_of_bounds_are_refused(words: list[str]) -> None:
    with pytest.raises(SystemExit):
        options(*words)
