"""WillsFile: what this node last knew of the operator's will, for a start without the table.

Not a second table: nobody is asked but this node, nothing is said here, and where the table has
anything to say it overrules. A node that starts while the table is away begins with what it knew
when it ended; a table that has lost its memory is told again from it, as `proxy.server.wills` has
it.

One JSON object, replaced as a whole and synced, so that a power failure leaves the one or the
other: by pool the mark of the latest change, and the packed `Wish` of each host that has one.
"""

from __future__ import annotations

import asyncio
import json
import logging
import os
from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

from proxy.routing.will import Wish

log = logging.getLogger(__name__)

WILLS_FILE = "wills.json"


class KnownWills(NamedTuple):
    """What is known of the operator's will.

    Attributes:
        marks: by pool, that of the latest change; a pool without one was never told anything.
        wishes: by pool and host.
    """

    marks: Mapping[str, str]
    wishes: Mapping[tuple[str, str], Wish]


class WillsFile:
    """The file, and what it holds."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._held: str | None = None
        self._failed = False

    def recall(self) -> KnownWills | None:
        """What was kept last; None where that is nothing, or nothing that can be read."""
        try:
            text = self.path.read_text("utf-8")
            known = _unpack(text)
        except FileNotFoundError:
            return None
        except (OSError, ValueError) as error:
            log.warning("will_unknown", extra={"detail": f"{self.path}: {error}"})
            return None
        self._held = text
        return known

    async def keep(self, known: KnownWills) -> None:
        """Have the file hold this. Where it cannot, that is told once, and tried again."""
        text = _pack(known)
        if text == self._held:
            return
        try:
            await asyncio.to_thread(self._replace, text)
        except OSError as error:
            if not self._failed:
                log.warning("wills_not_kept", extra={"detail": f"{self.path}: {error.strerror}"})
            self._failed = True
        else:
            self._held, self._failed = text, False

    def _replace(self, text: str) -> None:
        draft = self.path.with_name(f".{self.path.name}.{os.getpid()}")
        try:
            with draft.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self.path)
        finally:
            draft.unlink(missing_ok=True)


def _pack(known: KnownWills) -> str:
    hosts: dict[str, dict[str, str]] = {pool: {} for pool in known.marks}
    for (pool, host), wish in known.wishes.items():
        if pool in hosts and wish != Wish():
            hosts[pool][host] = wish.pack()
    told = {pool: {"mark": mark, "hosts": hosts[pool]} for pool, mark in known.marks.items()}
    return json.dumps(told, indent=1, sort_keys=True) + "\n"


def _unpack(text: str) -> KnownWills:
    """Raises ValueError where it is not such a text."""
    marks, wishes = dict[str, str](), dict[tuple[str, str], Wish]()
    try:
        for pool, told in json.loads(text).items():
            marks[pool] = str(told["mark"])
            for host, packed in told["hosts"].items():
                wishes[pool, host] = Wish.unpack(packed)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError("not what this program has written") from error
    return KnownWills(marks, wishes)
