"""The command line: arguments and exit codes, nothing else.

Exit codes: 0 it went well, 1 the answer is no (not ready, malformed, nobody there), 2 the command,
a value in it or the configuration is wrong. What a person reads goes to standard output, errors go
to standard error, one line each.

Every command imports what it needs when it runs: `health` is started every few seconds by
container health checks and must be there in milliseconds.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from collections.abc import Callable, Sequence

from proxy import __version__, commands
from proxy.console import NO, OK, WRONG, CommandError, load, number, say, why

_INTERRUPTED = 130

HEALTH_URL = "http://127.0.0.1:9389/readyz"
_HEALTH_TIMEOUT_S = 2.0  # less than containers give a health check


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
    known = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(
        name: str, run: Callable[[argparse.Namespace], int], text: str
    ) -> argparse.ArgumentParser:
        added = known.add_parser(name, help=text, description=text, allow_abbrev=False)
        added.set_defaults(command=run)
        return added

    run = command("run", _run, "Run the proxy in the foreground.")
    run.add_argument("--config", required=True, metavar="FILE")

    upgrade = command("upgrade", _upgrade, "Replace a running proxy by the installed version.")
    upgrade.add_argument("--pid", type=int, help="of rdp-proxy run, where several of them run here")

    check = command("check", _check, "Read a configuration file and tell all of its problems.")
    check.add_argument("file", metavar="FILE")
    check.add_argument("--against", metavar="FILE", help="tell what it would change there")

    command("schema", _schema, "Print the JSON Schema of the configuration, for editors.")

    explain = command("explain", _explain, "Tell where a client would go, and why.")
    explain.add_argument("--config", required=True, metavar="FILE")
    explain.add_argument("--client", required=True, metavar="ADDRESS", help="its IP address")
    explain.add_argument("--listener", metavar="NAME", help="the first one by default")
    explain.add_argument("--request", metavar="HEX", help="its Connection Request; - reads it here")
    explain.add_argument("--token", metavar="TEXT", help="instead: its routing token, or ADDRESS")
    explain.add_argument("--user", metavar="NAME", help="instead: the user name in its cookie")
    explain.add_argument("--destination", metavar="ADDRESS", help="what it dials, if a host's own")
    explain.add_argument("--pin", metavar="HOST", help="the host that it is pinned to")
    explain.add_argument("--json", action="store_true")

    probe = command("probe", _probe, "Visit a session host: how it answers, and its certificate.")
    probe.add_argument(
        "address", metavar="ADDRESS", help="IP address or name; port 3389 by default"
    )
    probe.add_argument("--timeout", metavar="TIME", default="5s", help="5s by default")
    probe.add_argument("--json", action="store_true")

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

    commands.add_to(command)

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
        said = f"which process of rdp-proxy run? --pid tells it (found: {found})"
        raise CommandError(said, WRONG if pids else NO)
    try:
        request(pids[0])
    except UpgradeError as error:
        raise CommandError(f"not upgraded: {error}") from None
    say(f"upgraded: process {pids[0]} goes on as version {__version__}")
    return OK


def _check(args: argparse.Namespace) -> int:
    from proxy import config

    settings = load(args.file)
    for warning in config.warnings(settings):
        sys.stderr.write(f"{args.file}: warning: {warning}\n")
    hosts = sum(len(pool.hosts) for pool in settings.pools)
    counts = (
        number(len(settings.listeners), "listener"),
        number(len(settings.pools), "pool"),
        number(hosts, "host"),
    )
    say(f"{args.file}: ok, {', '.join(counts)}")
    if args.against is not None:
        in_force = load(args.against)
        found = config.changes(in_force, settings)
        say(f"{number(len(found), 'change')} against {args.against}")
        for change in found:
            say(f"  {change}")
        if clashes := config.clashes(in_force, settings):
            raise CommandError("\n".join(f"a reload refuses it: {clash}" for clash in clashes))
    return OK


def _schema(_: argparse.Namespace) -> int:
    from proxy import config

    say(json.dumps(config.schema(), indent=2))
    return OK


def _explain(args: argparse.Namespace) -> int:
    from proxy.control.explain import explain
    from proxy.errors import WireError

    settings = load(args.config)
    request = sys.stdin.read() if args.request == "-" else args.request
    try:
        told = explain(
            settings,
            client=args.client,
            listener=args.listener,
            request_hex=request,
            token=args.token,
            user=args.user,
            destination=args.destination,
            pin=args.pin,
        )
    except WireError as error:
        raise CommandError(f"no Connection Request: {error.detail} (cause {error.cause})") from None
    except ValueError as error:
        raise CommandError(str(error), WRONG) from None
    say(json.dumps(told.as_dict(), indent=2) if args.json else told.as_text())
    return OK


def _probe(args: argparse.Namespace) -> int:
    import asyncio
    import socket
    import time

    from proxy.address import Address
    from proxy.control.examination import Examination
    from proxy.control.probe import probe_tls
    from proxy.notation import duration

    try:
        asked = Address.parse(args.address, default_port=3389)
        timeout_s = float(str(duration(0.01, 600)(args.timeout)))
        found = socket.getaddrinfo(*asked, type=socket.SOCK_STREAM)
        found.sort(key=lambda it: it[0] == socket.AF_INET6)  # as for a host that is configured so
    except ValueError as error:
        raise CommandError(str(error), WRONG) from None
    except OSError as error:
        raise CommandError(f"{asked.host}: {why(error)}") from None
    address = Address(str(found[0][4][0]), asked.port)
    result = asyncio.run(probe_tls(address, timeout_s))
    now = time.time()  # noqa: TID251  (how long a certificate lasts is a matter of the calendar)
    told = Examination(str(asked), address, result, now)
    say(json.dumps(told.as_dict(), indent=2) if args.json else told.as_text())
    return OK if result.ok else NO


def _routing_token(args: argparse.Namespace) -> int:
    from proxy.address import Address
    from proxy.control.explain import token_line
    from proxy.wire.tokens import encode_msts, read_token

    try:
        if args.act == "encode":
            say(encode_msts(Address.parse(args.text, default_port=3389)).decode())
            return OK
        token = read_token(token_line(args.text))
    except ValueError as error:
        raise CommandError(str(error), WRONG if args.act == "encode" else NO) from None
    if token.address is not None:
        say(str(token.address))
    elif token.collection is not None:
        say(f"collection {token.collection}")
    else:
        raise CommandError(f"the token names no host (form {token.format})")
    return OK


def _demo(args: argparse.Namespace) -> int:
    from proxy.lab import demo

    return demo.main(args)


def _health(args: argparse.Namespace) -> int:
    from proxy.control.client import EndpointError, ask

    scheme, _, rest = args.url.partition("://")
    endpoint, slash, path = rest.partition("/")
    if scheme != "http" or not endpoint:
        raise CommandError(f"--url is like {HEALTH_URL}, not {args.url!r}", WRONG)
    try:
        status, body = ask(endpoint, slash + path or "/readyz", timeout_s=_HEALTH_TIMEOUT_S)
    except EndpointError as error:
        raise CommandError(str(error), WRONG) from None
    except (OSError, ValueError) as error:
        raise CommandError(f"{endpoint}: {why(error)}") from None
    if status == 200:
        say("ready")
        return OK
    try:
        reason = json.loads(body)["reason"]
    except (ValueError, KeyError, TypeError):
        reason = f"HTTP status {status}"
    raise CommandError(f"not ready: {reason}")


def _hash_user(args: argparse.Namespace) -> int:
    from proxy.control.names import KEY_FILE, hash_user, read_key
    from proxy.settings import state_path

    path = state_path(KEY_FILE)
    try:
        key = read_key(path)
    except OSError as error:
        where = "STATE_DIRECTORY names where the proxy's is"
        raise CommandError(f"{path}: {why(error)}; {where}") from None
    say(hash_user(key, args.name))
    return OK
