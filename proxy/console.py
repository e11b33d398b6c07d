"""The console: how commands talk to a person, and with which code they end.

Answers go to standard output; what went wrong is a `CommandError`, which the command line prints
on standard error, one line each. What hosts and clients call themselves is shown, and may be made
to play with a terminal: what cannot be printed is escaped.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from proxy.settings import Settings

OK, NO, WRONG = 0, 1, 2


class CommandError(Exception):
    """What the person gets to read, and the exit code.

    `prefix` says who speaks; a configuration's problems begin with their place instead, where
    editors look for it.
    """

    def __init__(self, message: str, code: int = NO, prefix: str = "rdp-proxy: ") -> None:
        super().__init__(message)
        self.code = code
        self.prefix = prefix


def load(path: str) -> Settings:
    """The configuration in a file; its problems are told one by one."""
    from proxy import config
    from proxy.errors import ConfigError

    try:
        return config.load(path)
    except ConfigError as error:
        raise CommandError(str(error), WRONG, prefix="") from None


def say(text: str) -> None:
    """Print a line, or some."""
    sys.stdout.write("\n".join(map(_printable, text.split("\n"))) + "\n")


def number(count: int, noun: str) -> str:
    """`1 host`, `2 hosts`."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def why(error: Exception) -> str:
    """What went wrong, without the system's number for it."""
    return getattr(error, "strerror", None) or str(error)


def time_text(seconds: float) -> str:
    """A time as people say it: whole units, the two largest."""
    left, parts = max(0, round(seconds)), list[str]()
    for unit, unit_s in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, unit_s)
        if count:
            parts.append(f"{count} {unit}")
    return " ".join(parts[:2]) or "0 s"


def table(columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Print a table; what a row does not have is a dash, what none has is left out.

    Nothing is cut or folded: of a line that is too long for it a terminal makes two.
    """
    from rich.cells import cell_len  # its tables take seconds for some thousand rows

    printed = []
    for column in columns:
        if rows and all(row.get(column) is None for row in rows):
            continue
        cells = [column, *(_cell(row.get(column)) for row in rows)]
        widths = [cell_len(cell) for cell in cells]
        widest = max(widths)
        blanks = [" " * (widest - width) for width in widths]
        if rows and _is_number(rows[0].get(column)):
            printed.append([blank + cell for cell, blank in zip(cells, blanks, strict=True)])
        else:
            printed.append([cell + blank for cell, blank in zip(cells, blanks, strict=True)])
    lines = ["  ".join(line).rstrip() for line in zip(*printed, strict=True)]
    sys.stdout.write("\n".join(lines) + "\n")


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return _printable(str(value))


def _printable(text: str) -> str:
    if text.isprintable():
        return text
    return "".join(it if it.isprintable() else ascii(it)[1:-1] for it in text)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)
