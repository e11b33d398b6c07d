"""The text of a scrape, and the turns that others have while it is written."""

from __future__ import annotations

import asyncio

import pytest
from prometheus_client.parser import text_string_to_metric_families

from proxy.control.exposition import Exposition, Sample, Slices
from proxy.control.series import PREFIX, SERIES


class Clock:
    """Stands still, but where somebody lets it go on."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def page() -> Exposition:
    return Exposition(Slices(Clock()))


async def shown(page: Exposition) -> dict[tuple[str, ...], float]:
    """The samples by name and labels, as Prometheus' own reader understands them."""
    return {
        (sample.name.removeprefix(PREFIX), *sample.labels.values()): sample.value
        for family in text_string_to_metric_families((await page.text()).decode())
        for sample in family.samples
    }


async def test_every_series_is_announced_once_with_its_kind_and_meaning(page: Exposition) -> None:
    page.add("held_clients", (), 1)
    lines = (await page.text()).decode().splitlines()
    for name, series in SERIES.items():
        assert lines.count(f"# HELP {PREFIX}{name} {series.text}") == 1
        assert lines.count(f"# TYPE {PREFIX}{name} {series.kind}") == 1


async def test_lines_are_grouped_by_series_in_whatever_order_they_come(page: Exposition) -> None:
    page.add("host_up", ("p", "a"), True)
    page.add("canary_up", ("p", "a"), 1)
    page.add_all([Sample("host_up", ("p", "b"), 0), Sample("canary_up", ("p", "b"), 0)])
    names = [
        line.partition("{")[0]
        for line in (await page.text()).decode().splitlines()
        if not line.startswith("#")
    ]
    assert names == [PREFIX + "host_up"] * 2 + [PREFIX + "canary_up"] * 2
    assert (await shown(page))["host_up", "p", "a"] == 1


async def test_a_histogram_has_its_suffixes_and_the_ends_of_its_buckets(page: Exposition) -> None:
    page.add("placement_seconds", ("p",), 2, "_bucket", "0.5")
    page.add("placement_seconds", ("p",), 3, "_bucket", "+Inf")
    page.add("placement_seconds", ("p",), 3, "_count")
    page.add("placement_seconds", ("p",), 1.25, "_sum")
    assert await shown(page) == {
        ("placement_seconds_bucket", "p", "0.5"): 2,
        ("placement_seconds_bucket", "p", "+Inf"): 3,
        ("placement_seconds_count", "p"): 3,
        ("placement_seconds_sum", "p"): 1.25,
    }


async def test_labels_that_hold_anything_are_read_back_as_they_were(page: Exposition) -> None:
    odd = 'a"b\\c\nd{e}'
    page.add("host_certificate_info", ("p", "h", odd, "true"), 1)
    assert ("host_certificate_info", "p", "h", odd, "true") in await shown(page)


@pytest.mark.parametrize("value", [1795698557.25, 2.0**53, 1e-7, 0.1, -1.0])
async def test_values_keep_their_digits(page: Exposition, value: float) -> None:
    page.add("host_certificate_not_after_timestamp_seconds", ("p", "h"), value)
    assert list((await shown(page)).values()) == [value]


def test_another_number_of_labels_than_the_table_has_is_refused(page: Exposition) -> None:
    with pytest.raises(ValueError, match="shorter"):
        page.add("host_up", ("p",), 1)


class Others:
    """Whoever else runs in the loop: each of its turns takes as long as `takes_s` says."""

    def __init__(self, clock: Clock) -> None:
        self.clock = clock
        self.takes_s = 0.0
        self.turns = 0

    async def run(self) -> None:
        while True:
            await asyncio.sleep(0)
            self.turns += 1
            self.clock.now += self.takes_s


async def slice_s(slices: Slices, others: Others) -> float:
    """How long work goes on until the others have a turn, in steps of 10 us."""
    before, began = others.turns, others.clock.now
    while others.turns == before:
        others.clock.now += 0.000_01
        worked = others.clock.now - began
        await slices.turn()
    return worked


async def test_others_have_a_turn_after_each_slice_and_a_longer_one_lengthens_the_next() -> None:
    clock = Clock()
    slices, others = Slices(clock), Others(clock)
    running = asyncio.create_task(others.run())
    await asyncio.sleep(0)
    assert await slice_s(slices, others) == pytest.approx(0.0003, abs=0.000_02)
    others.takes_s = 0.002
    assert await slice_s(slices, others) == pytest.approx(0.0003, abs=0.000_02)
    others.takes_s = 1.0
    assert await slice_s(slices, others) == pytest.approx(0.0005, abs=0.000_02)
    others.takes_s = 0.0
    assert await slice_s(slices, others) == pytest.approx(0.001, abs=0.000_02)
    assert await slice_s(slices, others) == pytest.approx(0.0003, abs=0.000_02)
    running.cancel()
