"""Page: the state of a node on one page, for a person with a browser.

It is written here, whole, from the same rows as the JSON of the admin endpoint: no script, nothing
from elsewhere, and a policy that lets a browser load nothing else. It asks for itself anew every
ten seconds. What clients choose (names, tokens, collections) is escaped by the template.

It shows who is connected, so it lies behind the same door as /v1/…; see `control.admin`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import jinja2

from proxy import __version__
from proxy.control.certificates import utc_text
from proxy.control.http import Answer, Handler, Readiness, Request
from proxy.control.query import only

Row = Mapping[str, Any]
Counts = Sequence[tuple[Mapping[str, str], float]]

_ROWS = 100  # connections on the page
_AGAIN_S = 10
_HEADERS = {
    "Content-Security-Policy": "default-src 'self'; base-uri 'none'; form-action 'self'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
_FILTERS = ("client", "host", "pool")
_HERE = Path(__file__)


@dataclass(frozen=True, slots=True)
class PageViews:
    """Where the page is read, at each request, in the event loop; `counts` in a thread.

    Attributes:
        node: what this node is called.
        hosts: as /v1/hosts has them, with `certificate` (a `Certificate` or None) and `canary` (a
            `Verdict` or None).
        connections: the answer of /v1/connections to a query.
        counts: of a counter of `control.series`, with its labels.
        events: lines of the log, newest first.
        gauges: single figures by what they are called.
    """

    node: str
    readiness: Callable[[], Readiness]
    hosts: Callable[[], Awaitable[Sequence[Row]]]
    connections: Callable[[Mapping[str, str]], Awaitable[Row]]
    counts: Callable[[str], Counts]
    events: Callable[[], Sequence[Row]]
    gauges: Callable[[], Mapping[str, int]]
    wall: Callable[[], float]


def page_routes(views: PageViews) -> dict[str, Handler]:
    """The page, and what it is dressed in."""

    async def page(request: Request) -> Answer:
        query = {key: value for key, value in request.query.items() if value}
        only(query, *_FILTERS, "refresh")
        asked = {key: query[key] for key in _FILTERS if key in query}
        shown = {
            "version": __version__,
            "node": views.node,
            "now": datetime.fromtimestamp(views.wall(), UTC).strftime("%Y-%m-%d %H:%M:%S UTC"),
            "again_s": _AGAIN_S if query.get("refresh") != "off" else None,
            "asked": asked,
            "readiness": views.readiness(),
            "gauges": views.gauges(),
            "hosts": await views.hosts(),
            "found": await views.connections(asked | {"limit": str(_ROWS)}),
            "events": views.events(),
        }
        text = await asyncio.to_thread(lambda: _PAGE.render(shown | _counted(views.counts)))
        return Answer(text.encode(), content_type="text/html; charset=utf-8", headers=_HEADERS)

    async def style(_: Request) -> Answer:
        return Answer(_STYLE, content_type="text/css; charset=utf-8", headers=_HEADERS)

    async def no_icon(_: Request) -> Answer:
        return Answer(b"", 204)

    return {"/": page, "/page.css": style, "/favicon.ico": no_icon}


def _counted(counts: Callable[[str], Counts]) -> dict[str, object]:
    return {
        "reasons": _totals(counts("connections_placed_total"), "reason"),
        "fates": _totals(counts("tokens_total"), "fate"),
        "endings": _totals(counts("connections_ended_total"), "phase", "side", "cause"),
        "collections": _totals(counts("collections_total"), "listener", "alias"),
        "suspected": _by_host(counts("suspected_certificate_mismatch_total")),
    }


def _totals(counts: Counts, *by: str) -> list[tuple[str, int]]:
    """The sums over all other labels that are not zero, largest first."""
    sums: dict[str, int] = {}
    for labels, count in counts:
        name = " / ".join(labels[label] for label in by)
        sums[name] = sums.get(name, 0) + int(count)
    return sorted(((n, count) for n, count in sums.items() if count), key=lambda it: -it[1])


def _by_host(counts: Counts) -> dict[tuple[str, str], int]:
    return {(labels["pool"], labels["host"]): int(count) for labels, count in counts}


def _duration(seconds: float | None) -> str:
    """`42 s`, `7 min`, `3.5 h`, `12 d`."""
    if seconds is None:
        return ""
    for unit, size, below in (("s", 1, 120), ("min", 60, 7200), ("h", 3600, 172800)):
        if seconds < below:
            return f"{seconds / size:.{1 if unit == 'h' else 0}f} {unit}"
    return f"{seconds / 86400:.0f} d"


def _day(at: float | None) -> str:
    return (utc_text(at) or "?")[:10]


def _size(count: int) -> str:
    """Bytes as `812 B`, `1.5 MB`."""
    size = float(count)
    for unit in ("B", "kB", "MB", "GB"):
        if size < 1000:
            return f"{size:.0f} B" if unit == "B" else f"{size:.1f} {unit}"
        size /= 1000
    return f"{size:.1f} TB"


# Read when the front starts: an upgrade must not mix versions.
_ENVIRONMENT = jinja2.Environment(
    autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True, lstrip_blocks=True
)
_ENVIRONMENT.filters |= {"day": _day, "duration": _duration, "size": _size}
_PAGE = _ENVIRONMENT.from_string(_HERE.with_name("page.html").read_text("utf-8"))
_STYLE = _HERE.with_name("page.css").read_bytes()
