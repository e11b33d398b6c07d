"""Demo: the same seeded logins through two plain balancers and through rdp-proxy.

It needs nothing but this machine: a simulated farm on loopback (see `proxy.lab`), the two
balancers and `rdp-proxy run` as processes of their own. Exit code 1 means that a login through
rdp-proxy failed.
"""

from __future__ import annotations

import argparse
import asyncio
import signal
import sys
from collections.abc import Coroutine, Mapping
from typing import Any, TypeVar

from rich.console import Console

from proxy.lab.contenders import CONTENDERS, Contender, ContenderError
from proxy.lab.farm import Farm
from proxy.lab.plan import make_plan
from proxy.lab.play import Run, play
from proxy.lab.report import as_json, live, show
from proxy.lab.serve import SERVE_PORT, serve
from proxy.lab.session_host import Redirect

_T = TypeVar("_T")
_OWN = "rdp-proxy"
_INTERRUPTED = 130
_WIDTH = 120  # where no terminal says how wide it is


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Give `parser` the options of the demo."""
    parser.add_argument("--hosts", type=_number(2, 200), default=4, help="session hosts (4)")
    parser.add_argument("--users", type=_number(1, 5000), default=25, help="users (25)")
    parser.add_argument("--logins", type=_number(1, 1000), default=4, help="logins of each (4)")
    parser.add_argument("--seed", type=int, default=1, help="chooses users, sessions, chances (1)")
    parser.add_argument(
        "--nat",
        type=_share,
        nargs="?",
        const=1.0,
        default=0.0,
        metavar="SHARE",
        help="share of the users who sit behind one address (0; without a value 1, all of them)",
    )
    parser.add_argument(
        "--redirect",
        choices=[str(way) for way in Redirect],
        default=str(Redirect.TOKEN),
        help="how hosts send users to their sessions: by token through the balancer, by address "
        "past it, or not at all (token)",
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON only")
    parser.add_argument(
        "--serve", action="store_true", help="leave farm and proxy running for any RDP client"
    )
    parser.add_argument(
        "--port", type=_number(1, 65535), default=SERVE_PORT, help=f"of --serve ({SERVE_PORT})"
    )


def main(options: argparse.Namespace, contenders: Mapping[str, Contender] = CONTENDERS) -> int:
    """Run the demo; returns the exit code."""
    console = Console(stderr=options.json)
    if not console.is_terminal:
        console = Console(stderr=options.json, width=_WIDTH)
    try:
        if options.serve:
            asyncio.run(_until_told(serve(console, options)))
        runs = asyncio.run(_until_told(compare(options, contenders, console)))
    except ContenderError as error:
        console.print(str(error), style="red", markup=False, soft_wrap=True)
        return 1
    except (KeyboardInterrupt, asyncio.CancelledError):
        return 0 if options.serve else _INTERRUPTED
    if options.json:
        sys.stdout.write(as_json(runs) + "\n")
    else:
        show(console, runs)
    return 1 if any(run.failures for run in runs if run.balancer == _OWN) else 0


async def compare(
    options: argparse.Namespace, contenders: Mapping[str, Contender], console: Console
) -> list[Run]:
    """Play the plan through each contender, one after the other, before the same farm."""
    runs = []
    async with Farm.start(options.hosts, redirect=options.redirect, seed=options.seed) as farm:
        plan = make_plan(
            list(farm.hosts),
            users=options.users,
            logins=options.logins,
            nat=options.nat,
            seed=options.seed,
        )
        for name, contender in contenders.items():
            async with contender(farm) as address:
                with live(console, name, plan.size) as progress:
                    runs.append(await play(farm, plan, name, address, progress))
    return runs


async def _until_told(work: Coroutine[Any, Any, _T]) -> _T:
    """End on SIGTERM as on Ctrl-C: children are sessions of their own and must be told."""
    task = asyncio.current_task()
    assert task is not None
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    return await work


def _number(least: int, most: int) -> type[int]:
    """An argparse type: a whole number within bounds."""

    def read(text: str) -> int:
        value = int(text)
        if not least <= value <= most:
            raise argparse.ArgumentTypeError(f"{value} is not between {least} and {most}")
        return value

    return read  # type: ignore[return-value]


def _share(text: str) -> float:
    value = float(text)
    if not 0 <= value <= 1:
        raise argparse.ArgumentTypeError(f"{value} is not between 0 and 1")
    return value
