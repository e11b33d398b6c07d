"""Live series: read where the values stand, at each scrape."""

from __future__ import annotations

import pytest

from proxy import __version__
from proxy.control.exposition import Sample
from proxy.errors import Cause, Side
from proxy.routing.agent import AgentWord
from proxy.routing.pool import Host
from proxy.routing.will import Will, Wish
from proxy.server.record import Ending, Phase
from tests.unit.control.farm import connection
from tests.unit.control.scrape import House, changes


@pytest.fixture
async def house() -> House:
    return House()


async def test_live_values_are_read_at_each_scrape(house: House) -> None:
    first = await house.scrape()
    assert first["host_up{host=rdsh01,pool=desktops}"] == 1.0
    assert first["host_will{host=rdsh01,pool=desktops,will=ready}"] == 1.0
    assert first["affinity_pins"] == 42.0
    assert first["relay_up{relay=0}"] == 1.0
    assert first["relay_up{relay=1}"] == 0.0
    assert first["relay_connections{relay=0}"] == 3.0
    assert first["start_time_seconds"] == 1_234.5
    host = house.hosts[0]
    host.up, host.wish, host.live = False, Wish(Will.DRAIN), 9
    house.held, house.store_up = 4, False
    assert changes(first, await house.scrape()) == {
        "host_up{host=rdsh01,pool=desktops}": -1.0,
        "host_will{host=rdsh01,pool=desktops,will=ready}": -1.0,
        "host_will{host=rdsh01,pool=desktops,will=drain}": 1.0,
        "connections_active{host=rdsh01,pool=desktops}": 9.0,
        "held_clients": 4.0,
        "affinity_store_up": -1.0,
    }


async def test_a_host_that_its_agent_calls_down_is_down(house: House) -> None:
    house.hosts[0].agent = AgentWord(down=True)
    assert (await house.scrape())["host_up{host=rdsh01,pool=desktops}"] == 0.0


async def test_open_files_and_the_build_are_told(house: House) -> None:
    samples = await house.scrape()
    assert 3 <= samples["open_files"] <= samples["open_files_limit"]
    assert any(f"version={__version__}" in name for name in samples if "build_info" in name)


async def test_pins_are_absent_while_the_store_does_not_answer(house: House) -> None:
    house.pins_fail = True
    assert "affinity_pins" not in await house.scrape()


async def test_bytes_of_living_connections_count_and_do_not_count_twice(house: House) -> None:
    name = "bytes_total{direction=down,host=rdsh01,pool=desktops}"
    living = connection()
    house.connections.append(living)
    assert (await house.scrape())[name] == 5000.0
    living.bytes_down = 6000
    assert (await house.scrape())[name] == 6000.0
    house.connections.remove(living)
    living.ending = Ending(Phase.RELAY, Side.SERVER, Cause.RESET)
    house.metrics.connection_ended(living)
    assert (await house.scrape())[name] == 6000.0


async def test_bytes_that_an_earlier_front_has_counted_do_not_count_again(house: House) -> None:
    taken_over = connection(bytes_down=9_000_000)
    house.metrics.connection_accepted(taken_over)
    house.connections.append(taken_over)
    taken_over.bytes_down += 10
    samples = await house.scrape()
    assert samples["bytes_total{direction=down,host=rdsh01,pool=desktops}"] == 10.0


async def test_the_samples_of_parts_are_shown_under_the_names_of_the_table(house: House) -> None:
    samples = [
        Sample("pool_certificates_distinct", ("p",), 1.0),
        Sample("host_certificate_changes_total", ("p", "h"), 2.0),
        Sample("pool_certificates_distinct", ("q",), 0.0),
    ]
    house.sources = house.sources._replace(parts=(lambda: samples[:2], lambda: samples[2:]))
    shown = await house.scrape()
    assert shown["pool_certificates_distinct{pool=p}"] == 1.0
    assert shown["pool_certificates_distinct{pool=q}"] == 0.0
    assert shown["host_certificate_changes_total{host=h,pool=p}"] == 2.0


async def test_what_befalls_hosts_and_connections_in_the_midst_of_a_scrape_spoils_nothing(
    house: House,
) -> None:
    name = "bytes_total{direction=down,host=rdsh01,pool=desktops}"
    ends = connection()
    house.connections.append(ends)
    left, asked = house.hosts[-1], []

    def meanwhile(host: Host) -> list[Sample]:
        asked.append(host.name)
        if len(asked) == 1:
            house.hosts.remove(left)
            house.connections.remove(ends)
            ends.bytes_down, ends.ending = 6000, Ending(Phase.RELAY, Side.SERVER, Cause.RESET)
            house.metrics.connection_ended(ends)
        return []

    house.sources = house.sources._replace(host_parts=(meanwhile,))
    assert (await house.scrape())[name] == 5000.0, "as it was when bytes were added up"
    assert (await house.scrape())[name] == 6000.0
    assert asked.count(left.name) == 1
