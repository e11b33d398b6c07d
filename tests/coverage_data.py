"""What was measured: `python -m tests.coverage_data` drops what processes have half written.

Tests kill processes, and some of them while they write down what they have run. coverage passes
over most such files with a warning, but ends with an error for one that can be opened and not read
to its end.
"""

from __future__ import annotations

import sqlite3
from contextlib import closing
from pathlib import Path


def drop_halves(directory: Path) -> list[str]:
    """Remove the files of the processes that did not come to the end of it; their names."""
    halves = [file for file in sorted(directory.glob(".coverage.*")) if not _is_whole(file)]
    for file in halves:
        file.unlink(missing_ok=True)
    return [file.name for file in halves]


def _is_whole(file: Path) -> bool:
    try:
        with closing(sqlite3.connect(f"{file.absolute().as_uri()}?mode=ro", uri=True)) as db:
            if db.execute("PRAGMA integrity_check").fetchall() != [("ok",)]:
                return False
            return bool(db.execute("SELECT count(*) FROM coverage_schema").fetchone() == (1,))
    except sqlite3.Error:
        return False


if __name__ == "__main__":
    drop_halves(Path.cwd())
