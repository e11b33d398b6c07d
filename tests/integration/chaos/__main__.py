"""Entry point: `python -m tests.integration.chaos --seconds 600 --seed 1 [--nodes 2]`."""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

import uvloop

from tests.integration.chaos.play import QUICK, SLOW, Play, play


def main() -> int:
    """Play; print what was done, and every violation. The code is 1 where there is any."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.chaos")
    parser.add_argument("--seconds", type=float, default=600.0, help="0: one round (600)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--nodes", type=int, choices=(1, 2), default=1, help="2 share a Redis")
    parser.add_argument("--rate", type=float, default=8.0, help="logins a second (8)")
    parser.add_argument("--residents", type=int, default=20, help="sessions that last (20)")
    parser.add_argument("--quick", action="store_true", help="without the operations that wait")
    options = parser.parse_args()
    what = Play(
        options.seed,
        options.seconds,
        options.nodes,
        options.rate,
        options.residents,
        QUICK if options.quick else (*QUICK, *SLOW),
    )
    began = time.monotonic()
    with tempfile.TemporaryDirectory() as directory:
        house, crowd, audit = uvloop.run(play(what, Path(directory)))
    model, out = house.model, sys.stdout
    for done in model.done:
        out.write(f"{done}\n")
    out.write(
        f"seed {what.seed}, {what.nodes} nodes, {time.monotonic() - began:.0f} s:"
        f" {len(model.done)} operations, {crowd.logins} logins ({crowd.redirected} redirected),"
        f" {crowd.sessions} sessions with {crowd.echoes} echoes, {audit.lines} lines compared,"
        f" {audit.asked} times asked, {audit.breaths} times counted;"
        f" excused {sum(model.excused.values())}, {len(model.violations)} violations\n"
    )
    for why, count in model.excused.most_common():
        out.write(f"  excused {count}: {why}\n")
    for violation in model.violations[:50]:
        out.write(f"VIOLATION {violation}\n")
    return 1 if model.violations else 0


if __name__ == "__main__":
    sys.exit(main())
