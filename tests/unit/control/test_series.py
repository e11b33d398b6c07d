"""The table of metrics: Prometheus' conventions, and the page that is made of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from proxy.control.series import SERIES, reference

ROOT = Path(__file__).parents[3]
UNBOUNDED = {"client", "user", "source", "token", "key", "id", "correlation_id", "collection"}


@pytest.mark.parametrize("name", SERIES)
def test_names_and_kinds_follow_prometheus(name: str) -> None:
    series = SERIES[name]
    assert series.kind in ("counter", "gauge", "histogram")
    assert name.endswith("_total") == (series.kind == "counter")
    assert bool(series.buckets) == (series.kind == "histogram")
    assert list(series.buckets) == sorted(series.buckets)
    assert series.text.endswith(".")


@pytest.mark.parametrize("name", SERIES)
def test_no_label_is_chosen_by_clients(name: str) -> None:
    assert not UNBOUNDED & set(SERIES[name].labels)


def test_histograms_are_never_kept_by_host() -> None:
    histograms = [series for series in SERIES.values() if series.kind == "histogram"]
    assert {label for series in histograms for label in series.labels} == {"pool"}


def test_the_reference_page_is_made_of_the_table() -> None:
    page = ROOT / "docs" / "reference" / "metrics.md"
    assert page.read_text("utf-8") == reference(), "run: python -m proxy.control.series"


def test_the_command_prints_the_page() -> None:
    printed = subprocess.run(
        [sys.executable, "-m", "proxy.control.series"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    assert printed.stdout == reference()
