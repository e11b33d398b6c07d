"""Connection Requests as real clients, captures and other implementations send them.

`connection_requests.json` holds for each vector its bytes, their source, and the reading that is
expected: `kind` is "token" for a `Cookie: msts=` line, "cookie" for `mstshash`, "custom" for other
text, "none", or "invalid" for what is not one complete Connection Request.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple


class Vector(NamedTuple):
    """One first message; `data` is everything that the client ever sent."""

    name: str
    data: bytes
    expect: dict[str, Any]


def _load() -> list[Vector]:
    path = Path(__file__).with_name("connection_requests.json")
    rows = json.loads(path.read_text(encoding="utf-8"))
    return [Vector(row["name"], bytes.fromhex(row["hex"]), row["expect"]) for row in rows]


VECTORS = _load()
