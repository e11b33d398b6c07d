"""Metrics: what each event changes, what a scrape reads, and which labels there may be."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest

from proxy.affinity.store import StoreEvent
from proxy.control.exposition import Sample
from proxy.control.label_sets import SHOWN_S
from proxy.control.series import PREFIX, SERIES
from proxy.errors import Cause, Side
from proxy.routing.model import Reason, RepinCause, TokenFate
from proxy.routing.pool import Host
from proxy.routing.signs import Sign
from proxy.server.record import Ending, Phase
from tests.patience import PATIENCE_S
from tests.unit.control.farm import connection
from tests.unit.control.scrape import House, changes

CLOSED = Ending(Phase.RELAY, Side.CLIENT, Cause.CLOSED)


@pytest.fixture
async def house() -> House:
    return House()


async def test_what_befalls_the_table_is_counted(house: House) -> None:
    before = await house.scrape()
    house.metrics.store_event(StoreEvent.SET_ASIDE)
    after = await house.scrape()
    assert before["affinity_events_total{event=set_aside}"] == 0
    assert after["affinity_events_total{event=set_aside}"] == 1


async def test_every_series_of_the_table_is_shown_from_the_first_scrape_on(house: House) -> None:
    text = (await house.metrics.render(house.sources)).decode()
    shown = {line.split()[2] for line in text.splitlines() if line.startswith("# TYPE")}
    assert shown == {PREFIX + name for name in SERIES}


async def test_whoever_else_runs_in_the_loop_has_a_turn_after_each_host(house: House) -> None:
    turns = 0

    async def others() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0)
            turns += 1

    running = asyncio.create_task(others())
    await house.scrape()
    running.cancel()
    assert turns > len(house.hosts) + len(SERIES), "after each series, too"


async def test_scrapes_at_the_same_time_come_one_after_the_other(house: House) -> None:
    asked = list[str]()

    def host_part(host: Host) -> list[Sample]:
        asked.append(host.name)
        return []

    house.sources = house.sources._replace(host_parts=(host_part,))
    await asyncio.gather(house.scrape(), house.scrape())
    assert asked == [host.name for host in house.hosts] * 2


async def test_rate_sees_the_zero_of_whatever_has_not_happened_yet(house: House) -> None:
    samples = await house.scrape()
    for name in (
        "connections_accepted_total{listener=second}",
        "connections_placed_total{listener=rdp,pool=tools,reason=token}",
        "connections_ended_total{cause=no_host,listener=rdp,phase=place,side=server}",
        "tokens_total{fate=unknown_host,listener=rdp}",
        "host_failures_total{cause=timeout,host=tool02,pool=tools}",
        "repinned_total{cause=refused,pool=desktops}",
        "negotiations_total{answer=failure_5,pool=tools}",
        "bytes_total{direction=up,host=rdsh02,pool=desktops}",
        "affinity_store_failures_total",
        "placement_seconds_count{pool=tools}",
        "event_loop_lag_seconds_count",
    ):
        assert samples[name] == 0.0, name


async def test_an_accepted_connection_is_counted_by_listener(house: House) -> None:
    before = await house.scrape()
    house.metrics.connection_accepted(connection(phase=Phase.ACCEPT))
    assert changes(before, await house.scrape()) == {
        "connections_accepted_total{listener=rdp}": 1.0
    }


async def test_a_placed_connection_is_counted_by_reason_token_and_answer(house: House) -> None:
    before = await house.scrape()
    house.metrics.connection_placed(connection())
    changed = changes(before, await house.scrape())
    counters = {name: by for name, by in changed.items() if "_seconds" not in name}
    assert counters == {
        "connections_placed_total{listener=rdp,pool=desktops,reason=token}": 1.0,
        "tokens_total{fate=honoured,listener=rdp}": 1.0,
        "negotiations_total{answer=hybrid,pool=desktops}": 1.0,
    }
    assert changed["placement_seconds_sum{pool=desktops}"] == pytest.approx(0.004)
    assert changed["connect_seconds_count{pool=desktops}"] == 1.0
    assert changed["answer_seconds_bucket{le=0.005,pool=desktops}"] == 1.0
    assert "answer_seconds_bucket{le=0.0025,pool=desktops}" not in changed


async def test_a_repinned_connection_is_counted_with_its_cause(house: House) -> None:
    before = await house.scrape()
    house.metrics.connection_placed(
        connection(reason=Reason.REPINNED, repin_cause=RepinCause.DOWN, fate=TokenFate.ABSENT)
    )
    changed = changes(before, await house.scrape())
    assert changed["repinned_total{cause=down,pool=desktops}"] == 1.0
    assert changed["tokens_total{fate=absent,listener=rdp}"] == 1.0


@pytest.mark.parametrize("answer", [None, "failure_4294967295", "SSL|HYBRID", "x" * 500])
async def test_an_answer_that_a_host_makes_up_is_no_label(house: House, answer: str | None) -> None:
    before = await house.scrape()
    house.metrics.connection_placed(connection(answer=answer))
    changed = changes(before, await house.scrape())
    assert changed["negotiations_total{answer=other,pool=desktops}"] == 1.0


async def test_an_ending_is_counted_by_phase_side_and_cause(house: House) -> None:
    before = await house.scrape()
    ending = Ending(Phase.RELAY, Side.CLIENT, Cause.CLOSED)
    house.metrics.connection_ended(connection(ending=ending, duration_s=61.0))
    changed = changes(before, await house.scrape())
    assert (
        changed["connections_ended_total{cause=closed,listener=rdp,phase=relay,side=client}"] == 1.0
    )
    assert changed["connection_duration_seconds_bucket{le=300.0,pool=desktops}"] == 1.0
    assert "connection_duration_seconds_bucket{le=60.0,pool=desktops}" not in changed
    assert changed["bytes_total{direction=up,host=rdsh01,pool=desktops}"] == 100.0
    assert changed["bytes_total{direction=down,host=rdsh01,pool=desktops}"] == 5000.0
    assert not any(name.startswith("tokens_total") for name in changed), "counted when placed"


@pytest.mark.parametrize(("alias", "label"), [("Tools", "Tools"), (None, "other")])
async def test_a_collection_is_counted_by_the_name_that_the_configuration_has(
    house: House, alias: str | None, label: str
) -> None:
    before = await house.scrape()
    asking = connection(collection="whatever a client sends", collection_alias=alias)
    house.metrics.connection_placed(asking)
    ending = Ending(Phase.PLACE, Side.SERVER, Cause.NO_HOST)
    asking.phase, asking.ending, asking.relay = Phase.PLACE, ending, None
    house.metrics.connection_ended(asking)
    changed = changes(before, await house.scrape())
    assert changed[f"collections_total{{alias={label},listener=rdp}}"] == 2.0


async def test_a_token_whose_connection_no_relay_took_is_counted_too(house: House) -> None:
    before = await house.scrape()
    ending = Ending(Phase.RELAY, Side.LOCAL, Cause.LIMIT)
    house.metrics.connection_ended(connection(ending=ending, relay=None))
    after_a_restart = connection(ending=ending, relay=None, request_s=None)
    house.metrics.connection_ended(after_a_restart)
    changed = changes(before, await house.scrape())
    assert changed["tokens_total{fate=honoured,listener=rdp}"] == 1.0


async def test_a_counter_can_be_read_by_its_labels(house: House) -> None:
    house.metrics.connection_placed(connection())
    fates = {labels["fate"]: n for labels, n in house.metrics.counts("tokens_total") if n}
    assert fates == {"honoured": 1.0}


async def test_signs_are_counted_by_host_and_states_are_not(house: House) -> None:
    before = await house.scrape()
    for sign in Sign:
        house.metrics.sign_seen(sign, connection(), {})
    labels = "{host=rdsh01,pool=desktops}"
    assert changes(before, await house.scrape()) == {
        f"suspected_certificate_mismatch_total{labels}": 1.0,
        f"redirect_loops_total{labels}": 1.0,
    }


async def test_a_refused_token_is_counted_although_nothing_was_placed(house: House) -> None:
    before = await house.scrape()
    ending = Ending(Phase.PLACE, Side.LOCAL, Cause.NO_HOST)
    refused = connection(
        phase=Phase.PLACE, relay=None, fate=TokenFate.UNKNOWN_HOST, host=None, ending=ending
    )
    house.metrics.connection_ended(refused)
    assert changes(before, await house.scrape()) == {
        "tokens_total{fate=unknown_host,listener=rdp}": 1.0,
        "connections_ended_total{cause=no_host,listener=rdp,phase=place,side=local}": 1.0,
    }


async def test_a_malformed_request_has_no_token_to_count(house: House) -> None:
    before = await house.scrape()
    ending = Ending(Phase.REQUEST, Side.CLIENT, Cause.NOT_TPKT)
    noise = connection(phase=Phase.REQUEST, fate=TokenFate.ABSENT, pool=None, ending=ending)
    house.metrics.connection_ended(noise)
    assert changes(before, await house.scrape()) == {
        "connections_ended_total{cause=not_tpkt,listener=rdp,phase=request,side=client}": 1.0
    }


async def test_failures_of_hosts_pins_and_store_are_counted(house: House) -> None:
    before = await house.scrape()
    house.metrics.host_answered("desktops", "rdsh01")
    house.metrics.host_failed("desktops", "rdsh02", Cause.REFUSED)
    house.metrics.pin_moved("tools", "token")
    house.metrics.store_failed()
    assert changes(before, await house.scrape()) == {
        "host_failures_total{cause=refused,host=rdsh02,pool=desktops}": 1.0,
        "pins_moved_total{cause=token,pool=tools}": 1.0,
        "affinity_store_failures_total": 1.0,
    }


async def test_labels_hold_neither_users_nor_sources_nor_tokens(house: House) -> None:
    record = connection()
    house.connections.append(record)
    house.metrics.connection_accepted(record)
    house.metrics.connection_placed(record)
    ended = replace(record, ending=Ending(Phase.RELAY, Side.CLIENT, Cause.CLOSED), duration_s=1.0)
    house.metrics.connection_ended(ended)
    text = (await house.metrics.render(house.sources)).decode()
    for private in ("Alice", "203.0.113", "msts", "0011223344"):
        assert private not in text


async def test_the_loops_lag_is_measured_until_cancelled(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("proxy.control.metrics._LAG_INTERVAL_S", 0.001)
    async with asyncio.TaskGroup() as tasks:
        watching = tasks.create_task(house.metrics.watch_loop())
        async with asyncio.timeout(PATIENCE_S):
            while not (await house.scrape())["event_loop_lag_seconds_count"]:
                pass  # a scrape lets the loop run
        watching.cancel()


async def test_hosts_and_pools_that_are_forgotten_are_shown_a_while_longer(house: House) -> None:
    house.metrics.host_failed("desktops", "rdsh01", Cause.REFUSED)
    house.metrics.connection_ended(connection(host="rdsh02", ending=CLOSED))
    desktops, tools = house.pools
    desktops.change(desktops.settings.model_copy(update={"hosts": desktops.settings.hosts[:1]}), {})
    house.metrics.follow([], [desktops])
    house.hosts = list(desktops.hosts)
    samples = await house.scrape()
    assert samples["bytes_total{direction=down,host=rdsh02,pool=desktops}"] == 5000
    assert "host_up{host=rdsh02,pool=desktops}" not in samples
    house.clock.now += SHOWN_S
    samples = await house.scrape()
    assert tools.name == "tools"
    assert [name for name in samples if "rdsh02" in name or "pool=tools" in name] == []
    assert samples["host_failures_total{cause=refused,host=rdsh01,pool=desktops}"] == 1


async def test_a_listener_that_was_removed_counts_until_its_last_connection_has_ended(
    house: House,
) -> None:
    lives = connection()
    house.metrics.connection_accepted(lives)
    house.metrics.follow([], house.pools)
    house.clock.now += SHOWN_S
    assert (await house.scrape())["connections_accepted_total{listener=rdp}"] == 1
    assert not [name for name in await house.scrape() if "listener=second" in name]
    lives.ending = CLOSED
    house.metrics.connection_ended(lives)
    name = "connections_ended_total{cause=closed,listener=rdp,phase=relay,side=client}"
    assert (await house.scrape())[name] == 1
    house.clock.now += SHOWN_S
    assert not [name for name in await house.scrape() if "listener=" in name]


async def test_a_connection_that_outlived_its_listener_and_a_front_counts_to_its_end(
    house: House,
) -> None:
    lives = connection(listener="old")
    house.metrics.connection_accepted(lives)
    house.clock.now += SHOWN_S
    assert (await house.scrape())["connections_accepted_total{listener=old}"] == 1
    house.metrics.connection_ended(replace(lives, ending=CLOSED))
    house.clock.now += SHOWN_S
    assert not [name for name in await house.scrape() if "listener=old" in name]


async def test_a_listener_that_stays_is_shown_with_and_without_connections(house: House) -> None:
    comes = connection()
    house.metrics.connection_accepted(comes)
    house.metrics.connection_ended(replace(comes, ending=CLOSED))
    house.clock.now += SHOWN_S
    assert (await house.scrape())["connections_accepted_total{listener=rdp}"] == 1


async def test_a_new_host_is_shown_from_zero_and_what_stays_keeps_its_values(house: House) -> None:
    house.metrics.connection_ended(replace(connection(), ending=CLOSED))
    before = await house.scrape()
    desktops = house.pools[0]
    new = desktops.settings.hosts[0].model_copy(update={"name": "rdsh03"})
    settings = desktops.settings.model_copy(update={"hosts": (*desktops.settings.hosts, new)})
    desktops.change(settings, {})
    house.metrics.follow([], house.pools)
    after = await house.scrape()
    assert changes(before, after) == {}
    assert after["bytes_total{direction=down,host=rdsh01,pool=desktops}"] == 5000
    assert after["bytes_total{direction=down,host=rdsh03,pool=desktops}"] == 0
    assert after["host_failures_total{cause=reset,host=rdsh03,pool=desktops}"] == 0


async def test_following_the_same_again_changes_nothing(house: House) -> None:
    before = await house.scrape()
    for _ in range(3):
        house.metrics.follow([], house.pools)
    assert (await house.scrape()).keys() == before.keys()
