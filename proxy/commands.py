"""Commands that ask a running proxy, at its admin endpoint: what it knows and what it is told.

The endpoint is a unix socket by default, which its owner alone may use. What changes something
prints what happened; what it must not do is an error in the proxy's own words.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

from proxy import rows
from proxy.console import NO, OK, WRONG, CommandError, load, number, say, table, time_text, why
from proxy.rows import Row

_ADMIN = "unix:admin.sock"
_ASK_S = 15.0
_BAD_REQUEST = 400
_CHANGE_S = 70.0  # longer than the proxy gives itself
_LOOK_AGAIN_S = 1.0
_WHERE = "does the proxy run? STATE_DIRECTORY or --admin tells where it is"
_AWAY_S = 60.0  # a front that is started again or replaced is back by then

Command = Callable[[argparse.Namespace], int]
AddCommand = Callable[[str, Command, str], argparse.ArgumentParser]


class _View(NamedTuple):
    """A table of the admin endpoint, the columns that a person wants, and their cells in a row."""

    rows: str
    columns: str
    row: Callable[[Row], Row]


_HOSTS = _View(
    "hosts",
    "pool host address configured up no_new_clients will since weight connections cause agent",
    rows.host,
)
_CONNECTIONS = _View(
    "connections",
    "client user pool host reason token_fate answer bytes_up bytes_down duration",
    rows.connection,
)
_CERTIFICATES = _View(
    "certificates",
    "pool host answer tls subject names self_signed not_after sha256 seen_at changes",
    rows.certificate,
)
_CANARY = _View("canary", "pool host up listener token_address tested_at detail", dict)
_PINS = _View("pins", "pool key host expires_in touched", rows.pin)

_HELP = {
    "client": ("ADDRESS", "its IP address"),
    "user": ("NAME", "as the client's cookie has it; mstsc sends nine characters at most"),
    "host": ("HOST", "a session host's name"),
    "pool": ("POOL", "all pools by default"),
    "limit": ("ROWS", "at most so many"),
    "ttl": ("TIME", "such as 7d, or never; by default what the pool's affinity.ttl says"),
    "pins": (
        "keep|live|drop",
        "whose pins still count there: all, those of connected clients, none",
    ),
    "deadline": ("TIME", "such as 8h: when it should be over"),
}
_STATES = {"ready": "is ready", "drain": "drains", "maintenance": "is in maintenance"}
_PARAMETERS = (*_HELP, "will", "weight", "close")


def add_to(command: AddCommand) -> None:
    """Add the commands; `command` makes one of a name, what it does, and its help."""
    hosts = command("hosts", _shows(_HOSTS), "Show the session hosts of a running proxy.")
    _takes(hosts, "host", "pool")
    _add_wills(command)
    connections = command("connections", _shows(_CONNECTIONS), "Show its established connections.")
    connections.add_argument("--client", metavar="ADDRESS|NAME", help="or a user's name")
    _takes(connections, "host", "pool", "limit")

    text = "Show which certificate each host shows, and how it negotiates (--json: all of it)."
    _takes(command("certificates", _shows(_CERTIFICATES), text), "host", "pool")

    text = "Show whether a redirection to each host would work now; 1 if one would not."
    _takes(command("canary", _canary, text))

    listing = _shows(_PINS)
    pins = command("pins", listing, "Show or change which client is pinned to which host.")
    acts = pins.add_subparsers(title="acts", metavar="ACT", required=True)

    def act(name: str, run: Command, text: str, *parameters: str) -> argparse.ArgumentParser:
        added = acts.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=run)
        _takes(added, *parameters)
        return added

    text = "List the pins in force."
    act("list", listing, text, "client", "user", "host", "pool", "limit")
    text = "Tell what a client is pinned to, for how long, and who is connected by that pin."
    act("show", _show, text, "client", "user", "pool")
    text = "Pin a client to a host, on all nodes, from its next connection on."
    setting = act("set", _set, text, "client", "user", "pool", "ttl")
    setting.add_argument("--host", metavar="HOST", required=True, help="where it has to go")
    text = "Forget pins, on all nodes: of a client, a user, a host, a pool, or what all of it says."
    act("clear", _clear, text, "client", "user", "host", "pool")


def _add_wills(command: AddCommand) -> None:
    """The operator's will; each takes a host's name, and means it in all pools."""

    def will(name: str, run: Command, text: str, *parameters: str) -> argparse.ArgumentParser:
        added = command(name, run, text)
        added.add_argument("host", metavar="HOST", help="its name in the configuration")
        _takes(added, "pool", *parameters)
        return added

    text = (
        "Take no new clients to a host, on all nodes. Tokens, and pins as --pins says, still count."
    )
    drain = will("drain", _drain, text, "pins", "deadline")
    drain.set_defaults(will="drain")
    drain.add_argument("--close", action="store_const", const="true", help="at the deadline")
    drain.add_argument("--wait", action="store_true", help="return when no node has connections")
    text = "Let nobody come to a host, on all nodes; connections that live go on."
    maintenance = will("maintenance", _wish, text)
    maintenance.set_defaults(will="maintenance")
    maintenance.add_argument("--close", action="store_const", const="true", help="close them")
    text = "Give a host back: new clients may be balanced there."
    will("ready", _wish, text).set_defaults(will="ready")
    text = "Change a host's share of new clients, on all nodes and over restarts."
    weight = will("weight", _weigh, text)
    weight.add_argument("weight", metavar="N|default", help="0 to 10000; default: as configured")


def _takes(parser: argparse.ArgumentParser, *parameters: str) -> None:
    where = parser.add_mutually_exclusive_group()
    where.add_argument("--config", metavar="FILE", help="take admin.bind from there")
    where.add_argument("--admin", metavar="BIND", help=f"unix:PATH or HOST:PORT ({_ADMIN})")
    for parameter in parameters:
        metavar, text = _HELP[parameter]
        parser.add_argument(f"--{parameter}", metavar=metavar, help=text)
    parser.add_argument("--json", action="store_true")


def _shows(view: _View) -> Command:
    def show(args: argparse.Namespace) -> int:
        answer = _ask(args, view.rows)
        return _print(args, answer, lambda: _rows(view, answer))

    return show


def _wish(args: argparse.Namespace) -> int:
    _want(args)
    return OK


def _want(args: argparse.Namespace) -> list[dict[str, Any]]:
    """The hosts that it counts for now."""
    answer = _ask(args, "hosts/will", "PUT")
    _print(args, answer, lambda: _say_will(answer["hosts"]))
    hosts: list[dict[str, Any]] = answer["hosts"]
    return hosts


def _weigh(args: argparse.Namespace) -> int:
    answer = _ask(args, "hosts/weight", "PUT")

    def people() -> None:
        for row in answer["hosts"]:
            say(f"{row['pool']}: {row['host']} has weight {row['weight']}")

    return _print(args, answer, people)


def _drain(args: argparse.Namespace) -> int:
    """With --wait the exit code tells whether the host is empty."""
    meant = [(row["pool"], row["host"]) for row in _want(args)]
    if not args.wait:
        return OK
    sys.stdout.flush()  # what Windows has to be told is of use now, not in hours
    from time import sleep

    told = None
    while True:
        rows = _ask(args, "hosts", only=(), patience_s=_AWAY_S)["hosts"]
        mine = [row for row in rows if (row["pool"], row["host"]) in meant]
        if any(row["will"] == "ready" for row in mine):
            raise CommandError(f"{args.host} is ready again")
        if not any(row["in_use"] for row in mine):
            break
        at = {row["address"] for row in mine}
        leaving = [row for row in rows if not (row["configured"] or row["adopted"])]
        same = [row for row in leaving if row["address"] in at and row not in mine]
        left = sum(row["connections"] for row in (*mine, *same))
        over = [row for row in mine if row["deadline_s"] is not None and row["deadline_s"] <= 0]
        if over and not over[0]["close"]:
            raise CommandError(f"the deadline is over: {_left(left)}")
        if left != told:
            told = left
            sys.stderr.write(f"rdp-proxy: {_left(left)}\n")
        sleep(_LOOK_AGAIN_S)
    sys.stderr.write(f"rdp-proxy: {args.host} is empty\n")
    return OK


def _left(connections: int) -> str:
    others = "" if connections else "; other nodes may have some"
    return f"{number(connections, 'connection')} left on this node{others}"


def _say_will(rows: list[dict[str, Any]]) -> None:
    """What holds now, and what Windows has to be told beside it."""
    for row in rows:
        left = number(row["connections"], "connection")
        terms = f", pins: {row['pins']}" if row["pins"] else ""
        if row["deadline_s"] is not None:
            over = "then all are closed" if row["close"] else "which closes nobody"
            terms += f", deadline in {time_text(row['deadline_s'])}, {over}"
        say(f"{row['pool']}: {row['host']} {_STATES[row['will']]}{terms}; {left} on this node")
    host, will = rows[0]["host"], rows[0]["will"]
    address = rows[0]["address"].rpartition(":")[0].strip("[]")
    is_ip = address.replace(".", "").isdigit() or ":" in address
    name = host if is_ip and host != f"[{address}]" else address
    allowed, logon = ("Yes", "/enable") if will == "ready" else ("No", "/drain")
    say("Windows is not told by this. The broker goes on by its own list, and so does the host:")
    say(f"  on the broker:  Set-RDSessionHost -SessionHost {name} -NewConnectionAllowed {allowed}")
    say(f"  on {name}:  change logon {logon}")


def _canary(args: argparse.Namespace) -> int:
    answer = _ask(args, "canary")
    if answer["interval_s"] is None:
        raise CommandError("the canary is off: set canary.interval")
    _print(args, answer, lambda: _rows(_CANARY, answer))
    return NO if any(row["up"] is False for row in answer["canary"]) else OK


def _show(args: argparse.Namespace) -> int:
    answer = _ask(args, "pins/show")

    def people() -> None:
        for pool in answer["pools"]:
            if pool["note"] is not None:
                say(pool["note"])
            for pin in pool["pins"]:
                for line in _told(pin):
                    say(line)

    return _print(args, answer, people)


def _set(args: argparse.Namespace) -> int:
    answer = _ask(args, "pins", "PUT")

    def people() -> None:
        for pin in answer["pins"]:
            for line in _told(pin):
                say(line)

    return _print(args, answer, people)


def _clear(args: argparse.Namespace) -> int:
    cleared, living, more = 0, 0, True
    while more:
        answer = _ask(args, "pins", "DELETE")
        cleared += answer["cleared"]
        living += answer["connections"]
        more = answer["more"]

    def people() -> None:
        say(f"{number(cleared, 'pin')} cleared")
        if living:
            verb, own = ("lives", "its pin") if living == 1 else ("live", "their pins")
            live = f"{number(living, 'connection')} of theirs {verb} on this node"
            say(f"{live} and will write {own} again within a minute")

    return _print(args, {"cleared": cleared, "connections": living}, people)


def _told(pin: dict[str, Any]) -> Iterator[str]:
    """One entry of the table, in words."""
    if pin["host"] is None:
        yield f"{pin['pool']}: no pin under {pin['key']}, the next connection is balanced"
    else:
        yield f"{pin['pool']}: {pin['key']} is pinned to {pin['host']}"
        left_s = pin["expires_in_s"]
        expiry = "it never expires" if left_s is None else f"it expires in {time_text(left_s)}"
        yield f"  {expiry}; last used {time_text(pin['touched_s_ago'])} ago"
    hosts = [connection["host"] for connection in pin["connections"]]
    on = ", ".join(f"{hosts.count(host)} on {host}" for host in dict.fromkeys(hosts))
    yield f"  live connections on this node: {on or 'none'}"


def _rows(view: _View, answer: dict[str, Any]) -> None:
    found = answer[view.rows]
    table(view.columns.split(), [view.row(row) for row in found])
    if answer.get("more") or answer.get("total", 0) > len(found):
        sys.stderr.write(f"rdp-proxy: the first {len(found)}; there are more (--limit)\n")


def _print(args: argparse.Namespace, answer: object, people: Callable[[], None]) -> int:
    if args.json:
        say(json.dumps(answer, indent=2))
    else:
        people()
    return OK


def _ask(
    args: argparse.Namespace,
    path: str,
    method: str = "GET",
    only: Sequence[str] = _PARAMETERS,
    patience_s: float = 0,
) -> dict[str, Any]:
    """The answer of the running proxy to the parameters that were given; one that does not answer
    has a while to come back."""
    from time import monotonic, sleep
    from urllib.parse import urlencode

    from proxy.control.client import EndpointError, ask

    endpoint, bearer = _admin(args)
    given = {name: text for name in only if (text := getattr(args, name, None)) is not None}
    path = f"/v1/{path}?{urlencode(given)}"
    timeout_s = _ASK_S if method == "GET" else _CHANGE_S
    until = monotonic() + patience_s
    while True:
        try:
            status, body = ask(endpoint, path, method=method, bearer=bearer, timeout_s=timeout_s)
            answer: dict[str, Any] = json.loads(body)
            break
        except EndpointError as error:
            raise CommandError(str(error), WRONG) from None
        except (OSError, ValueError) as error:
            if monotonic() >= until:
                raise CommandError(f"{endpoint}: {why(error)}; {_WHERE}") from None
            sleep(_LOOK_AGAIN_S)
    if status != 200:
        code = WRONG if status == _BAD_REQUEST else NO
        raise CommandError(str(answer.get("error", f"HTTP status {status}")), code)
    return answer


def _admin(args: argparse.Namespace) -> tuple[str, str | None]:
    """Where the admin endpoint is, and the bearer token it wants."""
    from pathlib import Path

    from proxy.settings import UnixPath, state_path

    bearer: str | None = None
    endpoint: str = args.admin or os.environ.get("RDP_PROXY_ADMIN", _ADMIN)
    if args.config is not None:
        admin = load(args.config).admin
        if admin.bind is None:
            raise CommandError(f"{args.config}: admin.bind is off")
        endpoint = str(admin.bind)
        if admin.bearer_file is not None and not isinstance(admin.bind, UnixPath):
            try:
                bearer = Path(admin.bearer_file).read_text("utf-8").strip()
            except OSError as error:
                raise CommandError(f"{admin.bearer_file}: {why(error)}") from None
    if endpoint.startswith("unix:"):
        endpoint = f"unix:{state_path(endpoint.removeprefix('unix:'))}"
    return endpoint, bearer
