"""What is measured: the scenes, and the figures that are drawn from each.

A bar is the ratio to HAProxy that rdp-proxy is held to; docs/performance.md says why each figure
matters to somebody who works in a remote desktop.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from bench.load import Result

PLAIN = ("haproxy", "haproxy splice")
RECIPE = ("haproxy rdp",)

RDP_PROXY = "rdp-proxy"
_OWN = ("rdp-proxy-before", RDP_PROXY)
_CARRIERS = ("direct", *PLAIN, "nginx", *_OWN)

IDLE_COUNTS = (2_000, 9_500)
IDLE_CPU_COUNT = 5_000


@dataclass(frozen=True, slots=True)
class Bar:
    """How the ratio may be; at most, or, where more is better, at least.

    `absolute`: it is the figure itself that is limited.
    """

    limit: float
    absolute: bool = False


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. The ratio is formed to the best of `reference`."""

    key: str
    label: str
    unit: str
    higher_is_better: bool = False
    bar: Bar | None = None
    digits: int = 1
    reference: tuple[str, ...] = PLAIN


@dataclass(frozen=True, slots=True)
class Scene:
    """One run of the load, and the figures drawn from its result.

    `times`: so often in a row. With a single connection all hangs on which processor the scheduler
    wakes each process on, and that is settled anew with every connection.
    """

    group: str
    name: str
    words: tuple[str, ...]
    warm_s: float
    seconds: float
    contenders: tuple[str, ...]
    figures: tuple[tuple[Metric, Callable[[Result], float]], ...]
    times: int = 1


def _proxy_s_per(unit: str, scale: float) -> Callable[[Result], float]:
    return lambda result: scale * result["proxy_cpu_s"] / max(result[unit], 1)


def _system_s_per(unit: str, scale: float) -> Callable[[Result], float]:
    return lambda result: scale * result["system_cpu_s"] / max(result[unit], 1)


def _per_second(unit: str, scale: float = 1) -> Callable[[Result], float]:
    return lambda result: scale * result[unit] / result["seconds"]


def _p50(result: Result) -> float:
    return result["p50_us"]


def _p99(result: Result) -> float:
    return result["p99_us"]


def _bulk(streams: int, way: str, quiet_s: float = 0.0) -> Scene:
    """`quiet_s`: so long the connection stands before its first byte."""
    key = f"bulk.{way}.{streams}"
    label = f"{way}, {streams} stream{'s' if streams > 1 else ''}"
    words = ["bulk", "--connections", str(streams), *(["--up"] if way == "up" else [])]
    players: tuple[str, ...] = (*_CARRIERS, "haproxy tuned")
    if quiet_s:
        key += ".later"
        label = f"{way}, into an open connection"
        words += ["--quiet", str(quiet_s)]
        players = (*PLAIN, *_OWN)
    speed = Bar(1.5) if streams == 1 else None
    return Scene(
        "bulk",
        key,
        tuple(words),
        0.3,
        0.8,
        players,
        (
            (
                Metric(f"{key}.gb_per_s", label, "GB/s", True, speed, 2),
                _per_second("bytes", 1e-9),
            ),
            (
                Metric(f"{key}.cpu_s_per_gb", "  CPU, proxy", "s/GB", False, Bar(0.4), 3),
                _proxy_s_per("bytes", 1e9),
            ),
            (
                Metric(f"{key}.system_s_per_gb", "  CPU, system", "s/GB", False, None, 3),
                _system_s_per("bytes", 1e9),
            ),
        ),
    )


def _paced(connections: int, per_second: int) -> Scene:
    key = f"paced.{connections}"
    label = f"paced, {connections} x {per_second}/s"
    return Scene(
        "pingpong",
        key,
        ("paced", "--connections", str(connections), "--per-second", str(per_second)),
        0.2,
        0.6 if connections == 1 else 1.5,
        _CARRIERS,
        (
            (Metric(f"{key}.p50_us", f"{label}, p50", "us", bar=Bar(1.1)), _p50),
            (Metric(f"{key}.p99_us", "  p99", "us"), _p99),
            (
                Metric(f"{key}.system_us", "  CPU, system, a round trip", "us"),
                _system_s_per("messages", 1e6),
            ),
        ),
        times=3 if connections == 1 else 1,
    )


def _closed(connections: int) -> Scene:
    key = f"closed.{connections}"
    label = f"closed loop, {connections}"
    return Scene(
        "pingpong",
        key,
        ("closed", "--connections", str(connections)),
        0.2,
        0.4 if connections == 1 else 0.8,
        _CARRIERS,
        (
            (
                Metric(f"{key}.per_s", f"{label}: round trips", "1/s", True, None, 0),
                _per_second("messages"),
            ),
            (
                Metric(f"{key}.cpu_us", "  CPU, proxy, a round trip", "us", False, Bar(1.1), 2),
                _proxy_s_per("messages", 1e6),
            ),
            (Metric(f"{key}.p50_us", "  p50", "us"), _p50),
            (Metric(f"{key}.p99_us", "  p99", "us"), _p99),
        ),
        times=3 if connections == 1 else 1,
    )


def _mix() -> Scene:
    return Scene(
        "mix",
        "mix",
        ("mix", "--connections", "500", "--per-second", "20"),
        0.8,
        3.5,
        _CARRIERS,
        (
            (
                Metric("mix.system_percent", "CPU, system", "% core", bar=Bar(1.05)),
                _per_second("system_cpu_s", 100),
            ),
            (
                Metric("mix.ours_percent", "CPU, proxy and load", "% core"),
                lambda result: (
                    100 * (result["proxy_cpu_s"] + result["load_cpu_s"]) / result["seconds"]
                ),
            ),
            (
                Metric("mix.cpu_percent", "CPU, proxy", "% core"),
                _per_second("proxy_cpu_s", 100),
            ),
            (
                Metric("mix.p50_us", "host to client, p50", "us", bar=Bar(1.15)),
                _p50,
            ),
            (
                Metric("mix.p99_us", "host to client, p99", "us", bar=Bar(1.5)),
                _p99,
            ),
        ),
    )


def _rate(sources: int, label: str) -> Scene:
    key = f"rate.{sources}"
    return Scene(
        "rate",
        key,
        ("rate", "--connections", "64", "--sources", str(sources)),
        0.4,
        1.5,
        ("direct", "haproxy", *RECIPE, "nginx", *_OWN, "rdp-proxy-quiet"),
        (
            (
                Metric(f"{key}.per_s", label, "1/s", True, Bar(0.5), 0, RECIPE),
                _per_second("connections"),
            ),
            (
                Metric(f"{key}.cpu_us", "  CPU, proxy, each", "us", False, None, 0, RECIPE),
                _proxy_s_per("connections", 1e6),
            ),
            (Metric(f"{key}.p50_us", "  dial to answer, p50", "us", False, None, 0, RECIPE), _p50),
            (Metric(f"{key}.p99_us", "  dial to answer, p99", "us", False, None, 0, RECIPE), _p99),
        ),
    )


SCENES = (
    *(_bulk(streams, way) for way in ("down", "up") for streams in (1, 16)),
    *(_bulk(1, way, quiet_s=4.0) for way in ("down", "up")),
    *(_paced(connections, rate) for connections, rate in ((1, 500), (50, 20), (500, 10))),
    *(_closed(connections) for connections in (1, 50, 500)),
    _mix(),
    _rate(256, "from 256 addresses"),
    _rate(1_000_000, "each from an address of its own"),
)

# The idle scene is not played by the load alone: see rounds.py.
IDLE_CONTENDERS = ("direct", "haproxy", "nginx", *_OWN)
IDLE_METRICS = (
    *(
        metric
        for count in IDLE_COUNTS
        for metric in (
            Metric(
                f"idle.{count}.rss_kb",
                f"{count}: memory each, RSS",
                "kB",
                bar=Bar(1.0) if count == IDLE_COUNTS[-1] else None,
                digits=2,
            ),
            Metric(f"idle.{count}.pss_kb", "  PSS", "kB", digits=2),
            Metric(f"idle.{count}.kernel_kb", "  kernel's, with both ends", "kB", digits=2),
        )
    ),
    Metric(
        "idle.cpu_percent",
        f"{IDLE_CPU_COUNT}: CPU, proxy",
        "% core",
        bar=Bar(0.5, absolute=True),
        digits=2,
    ),
)

GROUPS = ("bulk", "pingpong", "mix", "rate", "idle")


def metrics(groups: list[str]) -> list[tuple[str, Metric]]:
    """The rows of the table, each with its group."""
    rows = [(scene.group, metric) for scene in SCENES for metric, _ in scene.figures]
    rows += [("idle", metric) for metric in IDLE_METRICS]
    return [(group, metric) for group, metric in rows if group in groups]


def takes_part(kind: str, group: str) -> bool:
    """Whether a kind of contender has something to show in a group."""
    if group == "idle":
        return kind in IDLE_CONTENDERS
    return any(kind in scene.contenders for scene in SCENES if scene.group == group)
