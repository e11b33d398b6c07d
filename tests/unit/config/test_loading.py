"""Whole files: the legal ones load, the refused ones tell all of their problems.

`tests/unit/data/config/refused/NAME.yaml` has its problems, as they are printed but without the
file's name, in `NAME.txt` beside it.
"""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy import config
from proxy.address import Address
from proxy.errors import ConfigError
from proxy.settings import StoreKind, UnixPath

DATA = Path(__file__).parent.parent / "data" / "config"
LEGAL = sorted((DATA / "legal").glob("*.yaml"))
REFUSED = sorted((DATA / "refused").glob("*.yaml"))
SMALLEST = (DATA / "legal" / "smallest.yaml").read_text(encoding="utf-8")


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        config.loads(text, "f")
    return [str(problem) for problem in caught.value.problems]


@pytest.mark.parametrize("path", LEGAL, ids=lambda path: path.stem)
def test_a_legal_file_loads(path: Path) -> None:
    settings = config.load(path)
    assert settings.pools[0].name == "desktops"


@pytest.mark.parametrize("path", REFUSED, ids=lambda path: path.stem)
def test_a_refused_file_tells_all_of_its_problems(path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        config.load(path)
    expected = path.with_suffix(".txt").read_text(encoding="utf-8")
    assert str(caught.value) == "".join(
        f"{path}:{line}" for line in expected.splitlines(keepends=True)
    ).rstrip("\n")


def test_each_list_of_problems_belongs_to_a_file() -> None:
    assert sorted(path.stem for path in (DATA / "refused").glob("*.txt")) == [
        path.stem for path in REFUSED
    ]


def test_a_whole_file_is_read_as_it_means() -> None:
    settings = config.load(DATA / "legal" / "everything_on.yaml")
    assert settings.listeners[1].bind == Address("::", 3389)
    assert settings.listeners[0].collections["営業 デスクトップ"] == "programs"
    assert settings.pools[0].health == settings.pools[1].health
    assert settings.pools[0].token.wait_s == 0.25
    assert settings.pools[0].hosts[0].token_addresses[2] == Address("2001:db8::22", 3390)
    assert settings.affinity.store is StoreKind.REDIS
    assert settings.timeouts.idle_s == 8 * 3600


def test_off_is_none() -> None:
    settings = config.load(DATA / "legal" / "everything_off.yaml")
    assert settings.metrics.bind is None
    assert settings.admin.bind is None
    assert settings.timeouts.idle_s is None
    assert settings.timeouts.stop_s == settings.pools[0].token.wait_s == 0


def test_keys_without_a_value_leave_the_default_where_that_is_empty() -> None:
    settings = config.load(DATA / "legal" / "empty_where_the_default_is_empty.yaml")
    assert settings.admin.bind == UnixPath("admin.sock")
    assert settings.listeners[0].proxy_protocol is None


def test_windows_line_ends_and_a_byte_order_mark_change_nothing() -> None:
    assert config.load(DATA / "legal" / "from_windows.yaml") == config.loads(SMALLEST)


def test_a_path_may_be_a_text() -> None:
    assert config.load(os.fspath(LEGAL[-1])) == config.load(LEGAL[-1])


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("absent.yaml", "No such file"),
        (".", "directory"),
        ("a\0b", "null byte"),
        ("a" * 5000, "long"),
    ],
)
def test_a_file_that_cannot_be_read_is_one_problem(
    path: str, reason: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=reason) as caught:
        config.load(path)
    assert len(caught.value.problems) == 1


def test_a_file_without_end_is_not_read_to_its_end(tmp_path: Path) -> None:
    path = tmp_path / "config.yaml"
    with path.open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ConfigError, match="longer than 8 MiB"):
        config.load(path)


def test_problems_come_in_the_order_of_the_file() -> None:
    text = SMALLEST.replace("pool: desktops", "pool: absent") + "log: {level: loud}\nxyz: 1\n"
    assert [problem.split(":")[1] for problem in problems(text)] == ["4", "10", "11"]


def test_rules_across_sections_speak_while_single_values_are_wrong() -> None:
    text = SMALLEST.replace("pool: desktops", "pool: absent").replace("10.0.0.21", "10.0.0.300")
    assert len(problems(text)) == 2


@given(st.text())
def test_any_text_makes_settings_or_problems(text: str) -> None:
    assert problems(text)


TREES = st.recursive(
    st.sampled_from(["x", "0", "''", "10.0.0.1:1", "off", "3s"]),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda items: f"[{', '.join(items)}]"),
        st.dictionaries(
            st.sampled_from(["name", "bind", "pool", "hosts", "address", "collections", "token"]),
            inner,
            max_size=3,
        ).map(lambda pairs: f"{{{', '.join(f'{key}: {value}' for key, value in pairs.items())}}}"),
    ),
    max_leaves=8,
)


@given(TREES, TREES, TREES, st.sampled_from(["affinity", "metrics", "admin", "timeouts", "log"]))
def test_any_tree_makes_settings_or_problems(one: str, two: str, three: str, key: str) -> None:
    assert problems(f"listeners: {one}\npools: {two}\n{key}: {three}\nwrong: 1\n")


def test_what_is_hardly_meant_is_warned_of() -> None:
    text = SMALLEST + (
        "        weight: 0\n"
        "  - {name: spare, hosts: [{name: a, address: 10.0.0.31:3389}]}\n"
        "admin: {bind: '0.0.0.0:9390'}\n"
    )
    assert config.warnings(config.loads(text)) == [
        "pool 'desktops': all weights are 0, new clients find no host",
        "pool 'spare': no listener leads to it",
        "admin.bind: 0.0.0.0:9390 shows clients' addresses to whoever reaches it",
    ]


@pytest.mark.parametrize(
    ("network", "wide"),
    [("10.0.0.0/16", False), ("10.0.0.0/15", True), ("2001:db8::/64", False), ("::/0", True)],
)
def test_wide_networks_of_tokens_are_warned_of(network: str, wide: bool) -> None:
    text = SMALLEST.replace("    hosts:\n", f"    token: {{networks: ['{network}']}}\n    hosts:\n")
    found = config.warnings(config.loads(text))
    assert [network in warning for warning in found] == [True] * wide


def test_hosts_that_the_canary_cannot_test_are_told() -> None:
    text = SMALLEST + (
        "      - {name: six, address: '[2001:db8::6]:3389'}\n"
        "      - {name: both, address: '[2001:db8::7]:3389', token_addresses: [192.0.2.7]}\n"
    )
    assert config.warnings(config.loads(text)) == []
    assert config.warnings(config.loads(text + "canary: {interval: 1m}\n")) == [
        "host 'six': the canary cannot test it, tokens hold no IPv6 address"
    ]


@pytest.mark.parametrize("bind", ["127.0.0.1:9390", "[::1]:9390", "unix:admin.sock", "off"])
def test_an_admin_interface_of_this_machine_alone_needs_no_warning(bind: str) -> None:
    assert config.warnings(config.loads(f"{SMALLEST}admin: {{bind: '{bind}'}}\n")) == []
