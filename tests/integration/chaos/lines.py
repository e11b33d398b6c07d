"""What a node logs, read on as it is written."""

from __future__ import annotations

import json
from collections import defaultdict
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.integration.chaos.model import Model

Line = dict[str, Any]

# What no operation here is a reason for.
_UNWANTED = {
    "connection_failed",
    "connections_not_logged",
    "front_silent",
    "http_failed",
    "join_failed",
    "library",
    "log_lines_lost",
    "message_refused",
    "start_failed",
    "upgrade_failed",
    "wills_not_kept",
}


class Lines:
    """One node's log.

    Attributes:
        of: the lines so far that tell of no single connection, by event.
        placed, ended: connections whose lines are still to be audited.
    """

    def __init__(self, file: Path, model: Model) -> None:
        self.of: dict[str, list[Line]] = defaultdict(list)
        self.placed: list[Line] = []
        self.ended: list[Line] = []
        self._file = file
        self._model = model
        self._read_to = 0

    def read(self) -> None:
        """Take what was written since the last time."""
        with self._file.open("rb") as log:
            log.seek(self._read_to)
            whole = log.read().rpartition(b"\n")[0]
        if not whole:
            return
        self._read_to += len(whole) + 1
        for line in whole.splitlines():
            self._take(line)

    def _take(self, line: bytes) -> None:
        if not line.startswith(b"{"):
            self._model.accuse(f"{self._file}: {line.decode(errors='replace')}")
            return
        fields: Line = json.loads(line)
        match fields["event"]:
            case "connection_placed":
                self.placed.append(fields)
            case "connection_ended":
                self.ended.append(fields)
            case event:
                self.of[event].append(fields)
                if event in _UNWANTED:
                    self._model.accuse(f"{self._file}: {line.decode()}")


def at(line: Line) -> float:
    """When a line was written, in seconds since the epoch."""
    return datetime.fromisoformat(line["time"]).timestamp()
