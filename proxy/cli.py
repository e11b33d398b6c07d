"""The command line: arguments and exit codes, nothing else.

Exit codes: 0 it went well, 1 the answer is no (not ready, malformed, nobody there), 2 the command
or the configuration is wrong. What a person reads goes to standard output, errors go to standard
error, one line each.

Every command imports what it needs when it runs: `health` is started every few seconds by
container health checks and must be there in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from proxy import __version__

if TYPE_CHECKING:
    from proxy.settings import Settings

OK, NO, WRONG = 0, 1, 2
_INTERRUPTED = 130

HEALTH_URL = "http://127.0.0.1:9389/readyz"
_HEALTH_TIMEOUT_S = 2.0  # less than containers give a health check
_ADMIN = "unix:admin.sock"


class CommandError(Exception):
    """What the person gets to read, and the exit code.

    `prefix` says who speaks; a configuration's problems begin with their place instead, where
    editors look for it.
    """

    def __init__(self, message: str, code: int = NO, prefix: str = "rdp-proxy: ") -> None:
        super().__init__(message)
        self.code = code
        self.prefix = prefix


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; the exit code."""
    words = list(sys.argv[1:] if argv is None else argv)
    args = _parser(words).parse_args(words)
    command: Callable[[argparse.Namespace], int] = args.command
    try:
        code = command(args)
        sys.stdout.flush()
    except CommandError as error:
        for line in str(error).splitlines():
            sys.stderr.write(f"{error.prefix}{line}\n")
        return error.code
    except KeyboardInterrupt:
        return _INTERRUPTED
    except BrokenPipeError:
        # The reader has seen enough. Python flushes once more at exit, which must not fail.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return OK
    return code


def _parser(words: Sequence[str]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="rdp-proxy",
        description="Load balancer for Remote Desktop farms: routes by token, pins by table.",
        allow_abbrev=False,
    )
    parser.add_argument("--version", action="version", version=f"rdp-proxy {__version__}")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = commands.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=run)
        return added

    run = command("run", _run, "Run the proxy in the foreground.")
    run.add_argument("--config", required=True, metavar="FILE")

    upgrade = command("upgrade", _upgrade, "Replace a running proxy by the installed version.")
    upgrade.add_argument("--pid", type=int, help="of rdp-proxy run, where several of them run here")

    check = command("check", _check, "Read a configuration file and tell all of its problems.")
    check.add_argument("file", metavar="FILE")

    command("schema", _schema, "Print the JSON Schema of the configuration, for editors.")

    explain = command("explain", _explain, "Tell where a client would go, and why.")
    explain.add_argument("--config", required=True, metavar="FILE")
    explain.add_argument("--client", required=True, metavar="ADDRESS", help="its IP address")
    explain.add_argument("--listener", metavar="NAME", help="the first one by default")
    explain.add_argument("--request", metavar="HEX", help="its Connection Request; - reads it here")
    explain.add_argument("--token", metavar="TEXT", help="instead: its routing token, or ADDRESS")
    explain.add_argument("--user", metavar="NAME", help="instead: the user name in its cookie")
    explain.add_argument("--pin", metavar="HOST", help="the host that it is pinned to")
    explain.add_argument("--json", action="store_true")

    token = command("routing-token", _routing_token, "Make or read a routing token.")
    token.add_argument("act", choices=("encode", "decode"))
    token.add_argument("text", metavar="ADDRESS|TOKEN")

    demo = command("demo", _demo, "Play logins at a simulated farm, with and without rdp-proxy.")
    if "demo" in words:
        from proxy.lab import demo as lab_demo

        lab_demo.add_arguments(demo)

    health = command("health", _health, "Ask whether the proxy is ready, as containers do.")
    url = os.environ.get("RDP_PROXY_HEALTH_URL", HEALTH_URL)
    health.add_argument("--url", default=url, help=f"{url} by default")

    for name, text in (
        ("hosts", "Show the session hosts of a running proxy."),
        ("connections", "Show its established connections."),
        ("pins", "Show which client is pinned to which host."),
    ):
        view = command(name, _view, text)
        view.set_defaults(view=name)
        where = view.add_mutually_exclusive_group()
        where.add_argument("--config", metavar="FILE", help="take admin.bind from there")
        where.add_argument("--admin", metavar="BIND", help=f"unix:PATH or HOST:PORT ({_ADMIN})")
        for parameter in _VIEWS[name].filters:
            view.add_argument(f"--{parameter}", metavar=parameter.upper())
        view.add_argument("--json", action="store_true")

    user = command("hash-user", _hash_user, "Print the hash by which the log names a user.")
    user.add_argument("name", metavar="NAME")
    return parser


def _run(args: argparse.Namespace) -> int:
    from proxy import parent

    return parent.run(["--config", args.config])


def _upgrade(args: argparse.Namespace) -> int:
    from proxy.upgrade_report import UpgradeError, request, running_parents

    pids = running_parents() if args.pid is None else [args.pid]
    if len(pids) != 1:
        found = ", ".join(map(str, pids)) or "none"
        raise CommandError(f"which process of rdp-proxy run? --pid tells it (found: {found})")
    try:
        request(pids[0])
    except UpgradeError as error:
        raise CommandError(f"not upgraded: {error}") from None
    _say(f"upgraded: process {pids[0]} goes on as version {__version__}")
    return OK


def _check(args: argparse.Namespace) -> int:
    from proxy import config

    settings = _load(args.file)
    for warning in config.warnings(settings):
        sys.stderr.write(f"{args.file}: warning: {warning}\n")
    hosts = sum(len(pool.hosts) for pool in settings.pools)
    counts = (
        _number(len(settings.listeners), "listener"),
        _number(len(settings.pools), "pool"),
        _number(hosts, "host"),
    )
    _say(f"{args.file}: ok, {', '.join(counts)}")
    return OK


def _schema(_: argparse.Namespace) -> int:
    from proxy import config

    _say(json.dumps(config.schema(), indent=2))
    return OK


def _explain(args: argparse.Namespace) -> int:
    from proxy.control.explain import explain
    from proxy.errors import WireError

    settings = _load(args.config)
    request = sys.stdin.read() if args.request == "-" else args.request
    try:
        told = explain(
            settings,
            client=args.client,
            listener=args.listener,
            request_hex=request,
            token=args.token,
            user=args.user,
            pin=args.pin,
        )
    except WireError as error:
        raise CommandError(f"no Connection Request: {error.detail} (cause {error.cause})") from None
    except ValueError as error:
        raise CommandError(str(error)) from None
    _say(json.dumps(told.as_dict(), indent=2) if args.json else told.as_text())
    return OK


def _routing_token(args: argparse.Namespace) -> int:
    from proxy.address import Address
    from proxy.control.explain import token_line
    from proxy.wire.tokens import encode_msts, read_token

    try:
        if args.act == "encode":
            _say(encode_msts(Address.parse(args.text, default_port=3389)).decode())
            return OK
        token = read_token(token_line(args.text))
    except ValueError as error:
        raise CommandError(str(error)) from None
    if token.address is not None:
        _say(str(token.address))
    elif token.collection is not None:
        _say(f"collection {token.collection}")
    else:
        raise CommandError(f"the token names no host (form {token.format})")
    return OK


def _demo(args: argparse.Namespace) -> int:
    from proxy.lab import demo

    return demo.main(args)


def _health(args: argparse.Namespace) -> int:
    from proxy.control.client import get

    scheme, _, rest = args.url.partition("://")
    endpoint, slash, path = rest.partition("/")
    if scheme != "http" or not endpoint:
        raise CommandError(f"--url is like {HEALTH_URL}, not {args.url!r}", WRONG)
    try:
        status, body = get(endpoint, slash + path or "/readyz", timeout_s=_HEALTH_TIMEOUT_S)
    except (OSError, ValueError) as error:
        raise CommandError(f"{endpoint}: {error}") from None
    if status == 200:
        _say("ready")
        return OK
    try:
        reason = json.loads(body)["reason"]
    except (ValueError, KeyError, TypeError):
        reason = f"HTTP status {status}"
    raise CommandError(f"not ready: {reason}")


class _View:
    """One table of the admin endpoint: its parameters and the columns that a person wants."""

    def __init__(self, filters: str, columns: str) -> None:
        self.filters = filters.split()
        self.columns = columns.split()


_VIEWS = {
    "hosts": _View("", "pool host address up will weight connections cause"),
    "connections": _View(
        "client host pool limit",
        "client user pool host reason token_fate answer bytes_up bytes_down duration_s",
    ),
    "pins": _View("client pool limit", "pool key host expires_in_s touched_s_ago"),
}


def _view(args: argparse.Namespace) -> int:
    from urllib.parse import urlencode

    from proxy.control.client import get

    view = _VIEWS[args.view]
    endpoint, bearer = _admin(args)
    asked = {name: getattr(args, name) for name in view.filters}
    query = urlencode({name: text for name, text in asked.items() if text is not None})
    try:
        status, body = get(endpoint, f"/v1/{args.view}?{query}", bearer=bearer)
        answer = json.loads(body)
    except (OSError, ValueError) as error:
        raise CommandError(f"{endpoint}: {error}; does the proxy run?") from None
    if status != 200:
        raise CommandError(str(answer.get("error", f"HTTP status {status}")))
    if args.json:
        _say(json.dumps(answer, indent=2))
        return OK
    rows = answer[args.view]
    _table(view.columns, rows)
    if answer.get("more") or answer.get("total", 0) > len(rows):
        sys.stderr.write(f"rdp-proxy: the first {len(rows)}; there are more (--limit)\n")
    return OK


def _admin(args: argparse.Namespace) -> tuple[str, str | None]:
    """Where the admin endpoint is, and the bearer token it wants."""
    from pathlib import Path

    from proxy.settings import UnixPath, state_path

    bearer: str | None = None
    endpoint: str = args.admin or os.environ.get("RDP_PROXY_ADMIN", _ADMIN)
    if args.config is not None:
        admin = _load(args.config).admin
        if admin.bind is None:
            raise CommandError(f"{args.config}: admin.bind is off")
        endpoint = str(admin.bind)
        if admin.bearer_file is not None and not isinstance(admin.bind, UnixPath):
            try:
                bearer = Path(admin.bearer_file).read_text("utf-8").strip()
            except OSError as error:
                raise CommandError(f"{admin.bearer_file}: {error.strerror}") from None
    if endpoint.startswith("unix:"):
        endpoint = f"unix:{state_path(endpoint.removeprefix('unix:'))}"
    return endpoint, bearer


def _table(columns: Sequence[str], rows: Sequence[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(width=None if sys.stdout.isatty() else 240, highlight=False)
    table = Table(box=None, pad_edge=False, header_style="bold")
    for column in columns:
        justify: Any = "right" if rows and _is_number(rows[0].get(column)) else "left"
        table.add_column(column, justify=justify)
    for row in rows:
        cells = (row.get(column) for column in columns)
        table.add_row(*("-" if cell is None else _cell(cell) for cell in cells))
    console.print(table)


def _cell(value: object) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value).replace("[", r"\[")  # rich reads brackets as markup


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _hash_user(args: argparse.Namespace) -> int:
    from proxy.control.names import KEY_FILE, hash_user, read_key
    from proxy.settings import state_path

    path = state_path(KEY_FILE)
    try:
        key = read_key(path)
    except OSError as error:
        why = error.strerror or str(error)
        raise CommandError(f"{path}: {why}; STATE_DIRECTORY names where the proxy's is") from None
    _say(hash_user(key, args.name))
    return OK


def _load(path: str) -> Settings:
    from proxy import config
    from proxy.errors import ConfigError

    try:
        return config.load(path)
    except ConfigError as error:
        raise CommandError(str(error), WRONG, prefix="") from None


def _number(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
