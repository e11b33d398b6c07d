"""The operator's view as JSON: hosts, connections, and the pins, which may be changed.

    GET /v1/hosts?host=&pool=
    GET /v1/connections?client=&host=&pool=&limit=
    GET /v1/certificates, /v1/canary, see `control.inventory` and `control.canary`
    …   /v1/pins, see `control.pins`
    PUT /v1/hosts/…, see `control.wills`
    GET /, the page, see `control.page`

It shows who is connected, names included, so it is served on a unix socket that its owner alone
may use, or at an address that is best guarded by a bearer token. Without one an address is
read-only: whoever can reach it, a web page in somebody's browser included, could change pins.
"""

from __future__ import annotations

import asyncio
import base64
import hmac
import ipaddress
import json
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from time import perf_counter
from typing import Protocol

from proxy.control.exposition import Slices
from proxy.control.http import Answer, Handler, Request, json_answer
from proxy.control.pins import PinDesk
from proxy.control.query import QueryError, hosts_meant, is_meant, limit, only
from proxy.control.wills import WillDesk
from proxy.errors import Cause, StoreError
from proxy.routing.key import IPAddress, normal_user
from proxy.routing.pool import Host
from proxy.server.record import ConnectionRecord
from proxy.settings import AdminSettings, UnixPath

_ROWS_AT_ONCE = 500  # then clients have their turn: a long list must not hold up the event loop


class HealthView(Protocol):
    """What health thinks of one host; `health.HostHealth` is one."""

    @property
    def since_s(self) -> float: ...
    @property
    def failures(self) -> int: ...
    @property
    def cause(self) -> Cause | None: ...
    @property
    def detail(self) -> str | None: ...
    @property
    def checked_s(self) -> float | None: ...
    @property
    def answered_s(self) -> float | None: ...


@dataclass(frozen=True, slots=True)
class AdminViews:
    """Where the view is read, at each request, in the event loop.

    Attributes:
        health: of a host, if it is checked.
        connections: the established ones.
        pins: the table, in an operator's hand.
        wills: what is wanted of the hosts, likewise.
        wall: seconds since the epoch.
        more: routes of parts that show themselves.
    """

    health: Callable[[Host], HealthView | None]
    hosts: Callable[[], Iterable[Host]]
    connections: Callable[[], Iterable[ConnectionRecord]]
    pins: PinDesk
    wills: WillDesk
    wall: Callable[[], float]
    more: Mapping[str, Handler] = field(default_factory=dict)

    async def host_rows(
        self, query: Mapping[str, str]
    ) -> AsyncIterator[tuple[Host, dict[str, object]]]:
        """What is known of each host that the query means; between them others have their turn."""
        slices = Slices(perf_counter)
        now = self.wall()
        for host in list(self.hosts()):
            if is_meant(query, host.pool, host.name):
                yield (
                    host,
                    {
                        **_host(host, self.health(host)),
                        **self.wills.row(host),
                        "short_lived": host.lifespans.all_short(now),
                    },
                )
            await slices.turn()

    async def find_connections(self, query: Mapping[str, str]) -> dict[str, object]:
        """Those that the query's filters leave, as many as it asks for, and their number.

        Raises:
            QueryError: there is no such filter.
        """
        only(query, "client", "host", "pool", "limit")
        at_most = limit(query)
        client = _client(query)
        found = []
        total = 0
        for number, record in enumerate(list(self.connections())):
            if number % _ROWS_AT_ONCE == 0:
                await asyncio.sleep(0)
            if not is_meant(query, record.pool, record.host):
                continue
            if client is not None and not _is_client(client, record):
                continue
            total += 1
            if total <= at_most:
                found.append(_connection(record, self.wall()))
        return {"connections": found, "total": total}


def admin_routes(
    views: AdminViews, settings: AdminSettings, pages: Mapping[str, Handler] | None = None
) -> dict[str, Handler]:
    """The routes of the admin endpoint.

    With a bearer file each call must bring its token, except on a unix socket, which its mode
    guards. An address without one serves what changes nothing.

    Args:
        pages: routes for browsers, which bring the token as a password (any user's). They change
            nothing, so that a browser that remembers the password cannot be made to.

    Raises:
        OSError: the bearer file cannot be read, or is empty (which would let everybody in).
    """
    bearer: str | None = None
    is_unix = isinstance(settings.bind, UnixPath)
    if settings.bearer_file is not None and not is_unix:
        bearer = read_bearer(Path(settings.bearer_file))
    routes: dict[str, Handler] = {
        "/v1/hosts": lambda request: _hosts(views, request),
        "/v1/connections": lambda request: _connections(views, request),
        **views.pins.routes(),
        **views.wills.routes(),
        **views.more,
    }
    may_change = is_unix or bearer is not None
    guarded = {
        route: _guarded(handler if may_change or _only_reads(route) else _refuse, bearer)
        for route, handler in routes.items()
    }
    return guarded | {
        route: _guarded(handler, bearer, scheme="Basic") for route, handler in (pages or {}).items()
    }


def read_bearer(path: Path) -> str:
    """The token in `path`, without the blanks around it."""
    token = path.read_text("utf-8").strip()
    if not token:
        raise OSError(f"{path} is empty: a bearer token is wanted there")
    return token


def _only_reads(route: str) -> bool:
    return route.startswith("/")  # see HttpServer: what does not is no GET


async def _refuse(_: Request) -> Answer:
    said = "changes need a bearer token here: set admin.bearer_file, or bind a unix socket"
    return json_answer({"error": said}, 403)


def _guarded(handler: Handler, bearer: str | None, *, scheme: str = "Bearer") -> Handler:
    challenge = {"WWW-Authenticate": 'Basic realm="rdp-proxy"' if scheme == "Basic" else scheme}

    async def handle(request: Request) -> Answer:
        if bearer is not None and not _brings(request, bearer, scheme):
            body = b'{"error": "a bearer token is needed"}\n'
            return Answer(body, 401, headers=challenge)
        try:
            return await handler(request)
        except QueryError as error:
            return json_answer({"error": str(error)}, 400)
        except StoreError as error:
            said = f"the affinity table does not answer ({error.detail})"
            return json_answer({"error": said}, 503)

    return handle


def _brings(request: Request, bearer: str, accepted: str) -> bool:
    scheme, _, token = (request.authorization or "").partition(" ")
    brought = token.strip().encode("utf-8", "replace")
    if scheme.lower() == "basic" and accepted == "Basic":
        try:
            brought = base64.b64decode(brought, validate=True).partition(b":")[2]
        except ValueError:
            return False
    elif scheme.lower() != "bearer":
        return False
    return hmac.compare_digest(brought, bearer.encode("utf-8", "replace"))


async def _hosts(views: AdminViews, request: Request) -> Answer:
    only(request.query, "host", "pool")
    hosts_meant(request.query, views.wills.pools())  # a name that is written wrongly is told
    # Row by row: the text of thousands in one step would hold up the event loop, or in a thread
    # the interpreter.
    rows = [json.dumps(row) async for _, row in views.host_rows(request.query)]
    return Answer(f'{{"hosts": [{", ".join(rows)}]}}\n'.encode())


def _host(host: Host, health: HealthView | None) -> dict[str, object]:
    return {
        "pool": host.pool,
        "host": host.name,
        "address": str(host.address),
        "configured": not (host.leaving or host.adopted),
        "adopted": host.adopted,
        "up": host.alive,
        "since_s": round(health.since_s, 3) if health else None,
        "failures": health.failures if health else None,
        "cause": health.cause if health else None,
        "detail": health.detail if health else None,
        "checked_s_ago": _rounded(health.checked_s) if health else None,
        "answered_client_s_ago": _rounded(health.answered_s) if health else None,
    }


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 3)


async def _connections(views: AdminViews, request: Request) -> Answer:
    hosts_meant(request.query, views.wills.pools())
    found = await views.find_connections(request.query)
    return await asyncio.to_thread(json_answer, found)


def _connection(record: ConnectionRecord, now: float) -> dict[str, object]:
    return {
        "id": f"{record.id:016x}",  # as in the log
        "listener": record.listener,
        "client": str(record.client),
        "user": record.user,
        "pool": record.pool,
        "host": record.host,
        "host_address": str(record.host_address) if record.host_address else None,
        "proxy_address": str(record.proxy_address) if record.proxy_address else None,
        "reason": record.reason,
        "token_fate": record.fate,
        "token": record.token,
        "correlation_id": record.correlation_id,
        "answer": record.answer,
        "relay": record.relay,
        "bytes_up": record.bytes_up,
        "bytes_down": record.bytes_down,
        "duration_s": round(max(0.0, now - record.accepted_at), 3),
    }


def _client(query: Mapping[str, str]) -> IPAddress | str | None:
    """Whom to look for: an IP address, else a user's name."""
    text = query.get("client")
    if text is None:
        return None
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return normal_user(text)


def _is_client(client: IPAddress | str, record: ConnectionRecord) -> bool:
    if isinstance(client, str):
        return client == normal_user(record.user)
    return str(client) == record.client.host
