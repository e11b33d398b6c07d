"""Gate: each module of a pure floor is covered whole, lines and branches, by its mirror test alone.

A parser that is covered by chance, through somebody else's test, has nobody who says what it means.
Reads the data of a run with `--cov-context=test`; what runs at import time has no context and
counts for every module.

Usage: own_coverage.py proxy/wire proxy/routing
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from coverage import Coverage
from coverage.exceptions import NoDataError


def gaps(coverage: Coverage, source: Path) -> str | None:
    """The coverage report of `source` under its mirror test, or None where nothing is missing."""
    mirror = Path("tests/unit", *source.parts[1:-1], f"test_{source.name}")
    report = io.StringIO()
    try:
        percent = coverage.report(
            include=[str(source)],
            contexts=["^$", f"^{mirror}::"],
            file=report,
        )
    except NoDataError:
        return f"{source}: no test imports it"
    return None if percent == 100 else f"{source} by {mirror} alone:\n{report.getvalue()}"


def main(folders: list[str]) -> int:
    """Print each gap; exit code 1 if there is one."""
    coverage = Coverage()
    coverage.load()
    sources = [
        source
        for folder in folders
        for source in sorted(Path(folder).rglob("*.py"))
        if source.name != "__init__.py"
    ]
    found = [gap for source in sources if (gap := gaps(coverage, source))]
    for gap in found:
        sys.stdout.write(f"{gap}\n")
    sys.stdout.write(f"{len(sources) - len(found)} of {len(sources)} pure modules covered whole\n")
    return 1 if found or not sources else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
