"""bench/results.py: medians, ratios, bars."""

from __future__ import annotations

import json

import pytest

from bench.results import Circumstances, Row, as_json, as_text, summarise
from bench.scenes import RECIPE, Bar, Metric

KINDS = {
    "direct": "direct",
    "haproxy": "haproxy",
    "haproxy splice": "haproxy splice",
    "haproxy rdp": "haproxy rdp",
    "haproxy 3.0 splice": "haproxy splice",
    "rdp-proxy": "rdp-proxy",
}
CIRCUMSTANCES = Circumstances(
    rounds=3, quick=False, versions={"haproxy": "HAProxy 1"}, noise_percent=9.0, notes=["late"]
)


def row(metric: Metric, **values: float | list[float]) -> Row:
    by_name = {
        name.replace("_", " ").replace("rdp proxy", "rdp-proxy").replace("30", "3.0"): (
            value if isinstance(value, list) else [value]
        )
        for name, value in values.items()
    }
    (found,) = summarise([("group", metric)], {metric.key: by_name}, KINDS)
    return found


def test_the_ratio_is_of_medians_and_to_the_better_peer() -> None:
    low = row(
        Metric("k", "time", "us"), haproxy=[9, 10, 400], haproxy_splice=20, rdp_proxy=[1, 5, 6]
    )
    assert (low.against, low.ratio) == ("haproxy", 0.5)
    high = row(Metric("k", "speed", "GB/s", True), haproxy=10, haproxy_splice=20, rdp_proxy=5)
    assert (high.against, high.ratio) == ("haproxy splice", 0.25)


def test_every_version_of_the_peer_counts() -> None:
    found = row(Metric("k", "time", "us"), haproxy=10, haproxy_30_splice=4, rdp_proxy=8)
    assert (found.against, found.ratio) == ("haproxy 3.0 splice", 2.0)


def test_a_metric_may_be_held_against_the_recipe_alone() -> None:
    found = row(
        Metric("k", "rate", "1/s", True, None, 0, RECIPE), haproxy=9, haproxy_rdp=4, rdp_proxy=8
    )
    assert (found.against, found.ratio) == ("haproxy rdp", 2.0)


@pytest.mark.parametrize(
    ("metric", "own", "passed"),
    [
        (Metric("k", "time", "us", bar=Bar(1.1)), 11.0, True),
        (Metric("k", "time", "us", bar=Bar(1.1)), 11.1, False),
        (Metric("k", "speed", "GB/s", True, Bar(1.5)), 15.0, True),
        (Metric("k", "speed", "GB/s", True, Bar(1.5)), 14.9, False),
        (Metric("k", "idle", "% core", bar=Bar(0.5, absolute=True)), 0.5, True),
        (Metric("k", "idle", "% core", bar=Bar(0.5, absolute=True)), 0.6, False),
        (Metric("k", "time", "us"), 1.0, None),
    ],
)
def test_a_bar_is_a_limit_of_the_ratio_or_of_the_figure(
    metric: Metric, own: float, passed: bool | None
) -> None:
    assert row(metric, haproxy=10.0, rdp_proxy=own).passed is passed


def test_without_figures_there_is_neither_ratio_nor_verdict() -> None:
    metric = Metric("k", "time", "us", bar=Bar(1.1))
    for found in (row(metric, haproxy=10.0), row(metric, rdp_proxy=10.0)):
        assert (found.ratio, found.passed) == (None, None)


def test_the_table_shows_the_columns_that_have_figures_and_says_what_to_doubt() -> None:
    rows = [row(Metric("k", "time", "us", bar=Bar(1.1)), direct=1.0, haproxy=10.0, rdp_proxy=20.0)]
    text = as_text(rows, KINDS, CIRCUMSTANCES)
    head, _, line, *_ = text.splitlines()
    assert head.split() == ["group", "direct", "haproxy", "rdp-proxy", "ratio", "bar"]
    assert line.split() == ["time", "us", "1.0", "10.0", "20.0", "2.00", "<=", "1.1", "FAIL"]
    assert "0 of 1 bars held" in text
    assert "NOT QUIET" in text
    assert "Note: late" in text


def test_the_json_holds_every_figure_of_every_round() -> None:
    figures = {"k": {"haproxy": [1.0, 2.0, 3.0], "rdp-proxy": [4.0]}}
    rows = summarise([("group", Metric("k", "time", "us"))], figures, KINDS)
    document = json.loads(as_json(rows, CIRCUMSTANCES, figures))
    (found,) = document["rows"]
    assert found["values"] == figures["k"]
    assert found["medians"] == {"haproxy": 2.0, "rdp-proxy": 4.0}
    assert found["ratio"] == 2.0
