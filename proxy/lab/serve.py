"""Serve: farm and proxy stay up, for any RDP client to try, until Ctrl-C.

Hosts listen on the proxy's port on addresses of their own, so that a redirection by address,
which carries no port, finds them.
"""

from __future__ import annotations

import argparse
import asyncio
from typing import NoReturn

from rich.console import Console

from proxy.lab.contenders import rdp_proxy
from proxy.lab.farm import Farm
from proxy.lab.session_host import Stage, Visit

SERVE_PORT = 13389
_LOOK_S = 0.25
_USER = "alice"


async def serve(console: Console, options: argparse.Namespace) -> NoReturn:
    """Run until cancelled; tell each connection that logs in."""

    def say(text: str) -> None:
        console.print(text, highlight=False, markup=False, soft_wrap=True)

    async with Farm.start(
        options.hosts, redirect=options.redirect, seed=options.seed, port=options.port
    ) as farm:
        home = list(farm.hosts)[-1]
        farm.broker.place(_USER, home)
        async with rdp_proxy(farm, options.port) as address:
            say(f"rdp-proxy listens on {address}, in front of {', '.join(farm.hosts)}.")
            say(f"{_USER} has a session on {home} from before; everybody else is new.")
            say("Any user and password will do. For instance:")
            say(f"  xfreerdp /v:{address} /cert:ignore /sec:tls /u:{_USER} /p:any")
            say("A session shows an empty desktop. Ctrl-C ends all.")
            told: dict[int, Stage] = {}
            while True:
                for visit in farm.visits:
                    if visit.user is not None and told.get(id(visit)) is not visit.stage:
                        told[id(visit)] = visit.stage
                        say(words(visit))
                await asyncio.sleep(_LOOK_S)


def words(visit: Visit) -> str:
    """One line about a connection that has logged in."""
    line = visit.line.decode("latin-1") if visit.line else "no cookie"
    end = f", sent on to {visit.redirected_to}" if visit.redirected_to else ""
    return f"{visit.host}: {visit.user} ({line}) {visit.stage.replace('_', ' ')}{end}"
