"""Host rows: a session host as `rdp-proxy hosts` shows it to a person, of what the endpoint says.

A cell is one figure or word while all is as configured, and says more where it is not: how much of
its weight a host has while it warms up, how full it is, how long a drain still has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.console import number, time_text


def host_row(row: Mapping[str, Any]) -> dict[str, Any]:
    """The cells of one host, by their columns; `row` is of /v1/hosts."""
    return {
        **{column: row[column] for column in ("pool", "host", "address", "configured", "up")},
        "will": _will(row),
        "since": _since(row),
        "weight": _weight(row),
        "connections": _connections(row),
        "cause": row["cause"] or ("nobody stays" if row["short_lived"] else None),
        "agent": _agent(row["agent"]),
    }


def _will(row: Mapping[str, Any]) -> str:
    keeps_all = row["pins"] in (None, "keep")
    return str(row["will"] if keeps_all else f"{row['will']}, pins: {row['pins']}")


def _since(row: Mapping[str, Any]) -> str | None:
    since_s, left_s = row["will_since_s"], row["deadline_s"]
    if since_s is None:
        return None
    since = f"{time_text(since_s)} ago"
    if left_s is None:
        return since
    return f"{since}, {time_text(abs(left_s))} {'left' if left_s > 0 else 'over'}"


def _weight(row: Mapping[str, Any]) -> int | str:
    weight, configured, now = row["weight"], row["configured_weight"], round(row["share"])
    asked = weight if weight == configured else f"{weight}, not {configured}"
    told = asked if now == weight else f"{asked}, now {now}"
    return f"{told}, backup" if row["backup"] else told


def _connections(row: Mapping[str, Any]) -> int | str:
    live, most, waiting = row["connections"], row["max_connections"], row["waiting"]
    places = live if most is None else f"{live} of {most}"
    return f"{places}, {number(waiting, 'client')} waiting" if waiting else places


def _agent(said: Mapping[str, Any] | None) -> str | None:
    """What a host's agent says, much as it said it."""
    if said is None:
        return None
    most = said["max_connections"]
    words = [said["will"], "down" if said["down"] else None, f"{said['percent']}%"]
    words += [f"maxconn:{most}" if most else None, said["detail"]]
    return " ".join(filter(None, words))
