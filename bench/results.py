"""The conclusions: medians, ratios to HAProxy, bars; as a table and as JSON.

The ratio of a row is rdp-proxy's median by the best median among the HAProxys that the row is held
against (with and without splice; all versions that took part). It is 2.0 where rdp-proxy's figure
is twice HAProxy's, whether more is better there or not.
"""

from __future__ import annotations

import datetime as dt
import json
import os
import platform
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass

from bench.scenes import RDP_PROXY, Metric

Figures = Mapping[str, Mapping[str, Sequence[float]]]

_QUIET_PERCENT = 5.0
_LABEL = 34
_COLUMN = 10


@dataclass(frozen=True, slots=True)
class Row:
    """A metric with each contender's median; `ratio` and `passed` are None where none applies."""

    group: str
    metric: Metric
    medians: dict[str, float]
    against: str | None
    ratio: float | None
    passed: bool | None

    @property
    def wanted(self) -> str:
        """The bar in words."""
        bar = self.metric.bar
        if bar is None:
            return ""
        return f"{'>=' if self.metric.higher_is_better else '<='} {bar.limit:g}" + (
            f" {self.metric.unit}" if bar.absolute else ""
        )


@dataclass(frozen=True, slots=True)
class Circumstances:
    """Where the figures come from. Noise: what other processes took, in percent of one core."""

    rounds: int
    quick: bool
    versions: dict[str, str]
    noise_percent: float
    notes: list[str]


def median(values: Sequence[float]) -> float:
    """The median; 0 of nothing."""
    return statistics.median(values) if values else 0.0


def summarise(
    rows: Sequence[tuple[str, Metric]], figures: Figures, kinds: Mapping[str, str]
) -> list[Row]:
    """The table's rows; `kinds` gives each contender's kind, in the order of the columns."""
    return [_row(group, metric, figures.get(metric.key, {}), kinds) for group, metric in rows]


def _row(
    group: str, metric: Metric, values: Mapping[str, Sequence[float]], kinds: Mapping[str, str]
) -> Row:
    medians = {name: median(values[name]) for name in kinds if values.get(name)}
    own = medians.get(RDP_PROXY)
    peers = {name: value for name, value in medians.items() if kinds[name] in metric.reference}
    if own is None or (not peers and not (metric.bar and metric.bar.absolute)):
        return Row(group, metric, medians, None, None, None)
    against, ratio = None, None
    if peers:
        best = max if metric.higher_is_better else min
        against = best(peers, key=peers.__getitem__)
        ratio = own / peers[against] if peers[against] > 0 else None
    return Row(group, metric, medians, against, ratio, _passed(metric, own, ratio))


def _passed(metric: Metric, own: float, ratio: float | None) -> bool | None:
    if metric.bar is None:
        return None
    judged = own if metric.bar.absolute else ratio
    if judged is None:
        return None
    return judged >= metric.bar.limit if metric.higher_is_better else judged <= metric.bar.limit


def as_text(rows: Sequence[Row], kinds: Mapping[str, str], said: Circumstances) -> str:
    """The table, group by group, with only the columns that a group has."""
    lines = []
    for group in dict.fromkeys(row.group for row in rows):
        members = [row for row in rows if row.group == group]
        columns = [name for name in kinds if any(name in row.medians for row in members)]
        head = "".join(f" {name:>{_width(name)}}" for name in columns)
        lines += [f"{group:{_LABEL}} {'':6}{head} {'ratio':>6}  bar", ""]
        lines += [_line(row, columns) for row in members]
        lines += ["", ""]
    return "\n".join(lines + _about(rows, said)) + "\n"


def _width(name: str) -> int:
    return max(_COLUMN, len(name))


def _line(row: Row, columns: Sequence[str]) -> str:
    cells = ""
    for name in columns:
        value = row.medians.get(name)
        text = "-" if value is None else f"{value:,.{row.metric.digits}f}"
        cells += f" {text:>{_width(name)}}"
    ratio = "-" if row.ratio is None else f"{row.ratio:.2f}"
    verdict = {None: "", True: "pass", False: "FAIL"}[row.passed]
    line = f"{row.metric.label:{_LABEL}} {row.metric.unit:6}{cells} {ratio:>6}"
    return f"{line}  {row.wanted}  {verdict}".rstrip()


def _about(rows: Sequence[Row], said: Circumstances) -> list[str]:
    judged = [row for row in rows if row.passed is not None]
    lines = [
        f"{sum(row.passed is True for row in judged)} of {len(judged)} bars held. Medians of"
        f" {said.rounds} {'short ' if said.quick else ''}rounds; ratio: rdp-proxy by the better"
        " HAProxy.",
        f"{platform.system()} {platform.release()}, {os.cpu_count()} processors;"
        f" {'; '.join(said.versions.values())}.",
        f"Other processes took {said.noise_percent:.1f} % of a core (median of all scenes)."
        + (" The machine was NOT QUIET." if said.noise_percent > _QUIET_PERCENT else ""),
    ]
    return lines + [f"Note: {note}" for note in said.notes]


def as_json(rows: Sequence[Row], said: Circumstances, figures: Figures) -> str:
    """Every figure of every round, and what the table holds."""
    document = {
        "when": dt.datetime.now(dt.UTC).isoformat(timespec="seconds"),
        "kernel": platform.release(),
        "processors": os.cpu_count(),
        **asdict(said),
        "rows": [
            {
                "group": row.group,
                "key": row.metric.key,
                "unit": row.metric.unit,
                "medians": row.medians,
                "against": row.against,
                "ratio": row.ratio,
                "bar": row.wanted or None,
                "passed": row.passed,
                "values": figures.get(row.metric.key, {}),
            }
            for row in rows
        ],
    }
    return json.dumps(document, indent=1)
