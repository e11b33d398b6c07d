"""Rows: what the admin endpoint says, as a person reads it in a table.

Times are in words. Of a session host a cell is one figure or word while all is as configured, and
says more where it is not: how much of its weight a host has while it warms up, how full it is, how
long a drain still has.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from proxy.console import number, time_text

Row = Mapping[str, Any]

_SHORT = 12  # digits of a fingerprint: enough to see who has the same one


def host(row: Row) -> Row:
    """A host of /v1/hosts."""
    return {
        **{column: row[column] for column in ("pool", "host", "address", "configured", "up")},
        "no_new_clients": row["no_new_clients"],
        "will": _will(row),
        "since": _since(row),
        "weight": _weight(row),
        "connections": _connections(row),
        "cause": _cause(row),
        "agent": _agent(row["agent"]),
    }


def certificate(row: Row) -> Row:
    """A host of /v1/certificates."""
    known = row["certificate"]
    if known is None:
        return row
    return {
        **row,
        **known,
        "names": " ".join(known["names"]) or None,
        "sha256": known["sha256"][:_SHORT],
    }


def connection(row: Row) -> Row:
    """One of /v1/connections."""
    return {**row, "duration": time_text(row["duration_s"])}


def pin(row: Row) -> Row:
    """One of /v1/pins."""
    left_s, touched = row["expires_in_s"], f"{time_text(row['touched_s_ago'])} ago"
    return {
        **row,
        "expires_in": "never" if left_s is None else time_text(left_s),
        "touched": touched,
    }


def _will(row: Row) -> str:
    keeps_all = row["pins"] in (None, "keep")
    return str(row["will"] if keeps_all else f"{row['will']}, pins: {row['pins']}")


def _since(row: Row) -> str | None:
    since_s, left_s = row["will_since_s"], row["deadline_s"]
    if since_s is None:
        return None
    since = f"{time_text(since_s)} ago"
    if left_s is None:
        return since
    return f"{since}, {time_text(abs(left_s))} {'left' if left_s > 0 else 'over'}"


def _weight(row: Row) -> int | str:
    weight, configured, now = row["weight"], row["configured_weight"], round(row["share"])
    asked = weight if weight == configured else f"{weight}, not {configured}"
    told = asked if now == weight else f"{asked}, now {now}"
    return f"{told}, backup" if row["backup"] else told


def _connections(row: Row) -> int | str:
    live, most, waiting = row["connections"], row["max_connections"], row["waiting"]
    places = live if most is None else f"{live} of {most}"
    return f"{places}, {number(waiting, 'client')} waiting" if waiting else places


def _cause(row: Row) -> str | None:
    if row["cause"] is None:
        return "nobody stays" if row["short_lived"] else None
    return f"{row['cause']}: {row['detail']}" if row["detail"] else str(row["cause"])


def _agent(said: Row | None) -> str | None:
    """What a host's agent says, much as it said it."""
    if said is None:
        return None
    most = said["max_connections"]
    words = [said["will"], "down" if said["down"] else None, f"{said['percent']}%"]
    words += [f"maxconn:{most}" if most else None, said["detail"]]
    return " ".join(filter(None, words))
