"""What differs between two configurations, and what of it has to wait."""

from __future__ import annotations

import pytest

from proxy import config
from proxy.config.changes import LIVE, changes, clashes, in_force, summary
from proxy.settings import Settings

FILE = """
listeners:
  - {name: rdp, bind: "127.0.0.1:3389", pool: desktops, collections: {Full: desktops}}
pools:
  - name: desktops
    hosts:
      - {name: rdsh01, address: 10.0.0.21:3389}
      - {name: rdsh02, address: 10.0.0.22:3389, weight: 50}
"""


def after(*replaced: tuple[str, str], more: str = "") -> Settings:
    text = FILE
    for old, new in replaced:
        assert old in text
        text = text.replace(old, new)
    return config.loads(text + more)


def told(*replaced: tuple[str, str], more: str = "") -> list[str]:
    return [str(change) for change in changes(after(), after(*replaced, more=more))]


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        ("weight: 50", "weight: 70", "~ pools.desktops.hosts.rdsh02.weight: 50 -> 70"),
        ("10.0.0.21", "10.0.0.9", "~ pools.desktops.hosts.rdsh01.address: 10.0.0.21:3389 -> "
         "10.0.0.9:3389"),
        ("name: rdp,", "name: rdp, allow: [10.0.0.0/8],", "~ listeners.rdp.allow: "
         '["0.0.0.0/0", "::/0"] -> ["10.0.0.0/8"]'),
        ("Full: d", "Other: d", "+ listeners.rdp.collections.Other: desktops"),
    ],
)  # fmt: skip
def test_a_changed_value_is_told_with_its_place(old: str, new: str, line: str) -> None:
    assert line in told((old, new))


def test_hosts_and_listeners_that_come_and_go_are_told_by_their_addresses() -> None:
    assert told(("name: rdsh02, address: 10.0.0.22:3389", "name: new, address: 10.0.0.5:3389")) == [
        "- pools.desktops.hosts.rdsh02: 10.0.0.22:3389",
        "+ pools.desktops.hosts.new: 10.0.0.5:3389",
    ]
    assert told(("name: rdp,", "name: rdp2,")) == [
        "- listeners.rdp: 127.0.0.1:3389",
        "+ listeners.rdp2: 127.0.0.1:3389",
    ]


def test_a_pool_that_comes_is_told_by_its_size() -> None:
    old = config.loads(FILE)
    pool = old.pools[0].model_copy(update={"name": "tools"})
    one = pool.model_copy(update={"name": "one", "hosts": pool.hosts[:1]})
    new = old.model_copy(update={"pools": (*old.pools, pool, one)})
    assert list(map(str, changes(old, new))) == ["+ pools.tools: 2 hosts", "+ pools.one: 1 host"]


def test_nothing_differs_from_itself_nor_from_what_only_looks_different() -> None:
    assert told() == []
    assert told(more="timeouts: {connect: 3000ms}\n") == []


def test_what_has_to_wait_is_said_to_wait() -> None:
    assert told(more="relay: {processes: 3}\naffinity: {max_pins: 5}\n") == [
        "~ affinity.max_pins: 1000000 -> 5 (with the next start or upgrade)",
        "~ relay.processes: auto -> 3 (with the next start or upgrade)",
    ]


def test_a_password_is_never_shown() -> None:
    shown = told(more='affinity: {store: redis, url: "redis://:secret@127.0.0.1:6379"}\n')
    assert "+ affinity.url: (not shown) (with the next start or upgrade)" in shown
    assert not any("secret" in line for line in shown)


def test_a_long_value_is_cut() -> None:
    networks = ", ".join(f"10.{number}.0.0/16" for number in range(9))
    (line,) = told(("name: rdp,", f"name: rdp, allow: [{networks}],"))
    assert line.endswith("...")


def test_in_force_is_the_new_without_what_waits() -> None:
    old = after()
    more = "relay: {processes: 3}\naffinity: {max_pins: 5, shared_after: 3}\nlog: {level: debug}\n"
    now = in_force(old, after(("weight: 50", "weight: 70"), more=more))
    assert now.pools[0].hosts[1].weight == 70
    assert now.affinity.shared_after == 3
    assert now.log.level == "debug"
    assert (now.affinity.max_pins, now.relay.processes) == (1_000_000, None)
    waiting = [change.where for change in changes(now, after(more=more)) if change.waits]
    assert waiting == ["affinity.max_pins", "relay.processes"], "they are named again"


def test_what_is_live_exists_under_that_name() -> None:
    for path in LIVE:
        section, _, key = path.partition(".")
        field = type(getattr(after(), section))
        assert not key or key in field.model_fields


def test_the_summary_counts_hosts_and_names_what_waits() -> None:
    new = after(
        ("name: rdsh02", "name: rdsh03"),
        ("10.0.0.21", "10.0.0.9"),
        more="relay: {processes: 3}\nlog: {level: debug}\n",
    )
    assert summary(changes(after(), new)) == {
        "changes": 5,
        "hosts_added": 1,
        "hosts_removed": 1,
        "wait": ["relay.processes"],
    }
    assert summary([])["wait"] is None


def test_the_hosts_of_a_pool_that_comes_or_goes_are_counted() -> None:
    renamed = after(("  - name: desktops", "  - name: office"), ("pool: desktops", "pool: office"),
                    ("Full: desktops", "Full: office"))  # fmt: skip
    counts = summary(changes(after(), renamed))
    assert (counts["hosts_added"], counts["hosts_removed"]) == (2, 2)


def test_a_listener_cannot_have_an_address_that_waits_to_be_given_up() -> None:
    moved = 'metrics: {bind: "0.0.0.0:3390"}\n'
    old, new = after(), after(("127.0.0.1:3389", "127.0.0.1:9389"), more=moved)
    assert clashes(old, new) == [
        "listener 'rdp' cannot have 127.0.0.1:9389: metrics.bind is 0.0.0.0:9389 until the next "
        "start or upgrade"
    ]
    assert clashes(new, new) == clashes(old, old) == []
