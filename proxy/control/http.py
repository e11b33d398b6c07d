"""HTTP: the one door to aiohttp, and the endpoints that anybody may read.

`HttpServer` serves a table of routes at one address or unix socket; the admin view uses it too.
Handlers know nothing of HTTP libraries: they take a `Request` and give an `Answer`.

Laws: requests meet no banner and leave no access log; each has a deadline, and idle connections
end soon; a unix socket is readable by its owner alone; whoever answers at an address keeps it.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import socket
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from aiohttp import web

from proxy.address import Address
from proxy.settings import UnixPath, state_path

log = logging.getLogger(__name__)
# Scanners send noise all day, and aiohttp would log a traceback for each.
_SILENT = logging.getLogger(f"{__name__}.aiohttp")
_SILENT.setLevel(logging.CRITICAL)

_REQUEST_TIMEOUT_S = 10.0
_CHANGE_TIMEOUT_S = 60.0  # a change may have to go through the whole table
_IDLE_TIMEOUT_S = 15.0
_LAST_WORDS_S, _LOOK_S = 0.5, 0.01  # at a stop
_BACKLOG = 64
_RENDERS_AT_ONCE = 4


@dataclass(frozen=True, slots=True)
class Request:
    """What a handler may know of a request."""

    query: Mapping[str, str] = field(default_factory=dict)
    authorization: str | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """What a handler says."""

    body: bytes
    status: int = 200
    content_type: str = "application/json"
    headers: Mapping[str, str] = field(default_factory=dict)


Handler = Callable[[Request], Awaitable[Answer]]


def json_answer(value: object, status: int = 200) -> Answer:
    """`value` as JSON text."""
    return Answer(json.dumps(value).encode() + b"\n", status)


class HttpServer:
    """Serves routes at one address or unix socket.

    A route is a path, which is read with GET, or a method and a path: `PUT /v1/pins`.
    """

    def __init__(self, bind: Address | UnixPath, routes: Mapping[str, Handler]) -> None:
        self._bind = bind
        app = web.Application()
        for route, handler in routes.items():
            method, _, path = route.rpartition(" ")
            if method:
                app.router.add_route(method, path, _adapt(handler, _CHANGE_TIMEOUT_S))
            else:
                app.router.add_get(path, _adapt(handler, _REQUEST_TIMEOUT_S))
        app.on_response_prepare.append(_drop_banner)
        self._runner = web.AppRunner(
            app,
            access_log=None,
            logger=_SILENT,
            handle_signals=False,
            keepalive_timeout=_IDLE_TIMEOUT_S,
            lingering_time=1.0,
            shutdown_timeout=1.0,
        )
        self._unlink: tuple[Path, int] | None = None
        self.bound: Address | UnixPath = bind

    @property
    def address(self) -> Address | None:
        """Where it serves, unless that is a unix socket."""
        return self._bind if isinstance(self._bind, Address) else None

    async def start(
        self, listening: socket.socket | None = None, *, succeeds: bool = False
    ) -> None:
        """Serve; `bound` then names the address, with the port that was found for port 0.

        Args:
            listening: a socket that listens already, as a parent process keeps it.
            succeeds: take over a unix socket at which somebody serves still.

        Raises:
            OSError: the address cannot be had; the message names it.
        """
        sock = listening or self._listen(succeeds=succeeds)
        await self._runner.setup()
        await web.SockSite(self._runner, sock, backlog=_BACKLOG).start()
        if isinstance(self._bind, Address):
            self.bound = Address(*sock.getsockname()[:2])

    async def stop(self) -> None:
        """Stop serving; a unix socket's file is removed, unless it is another's by now.

        Whoever has connected may still ask: a question that is on its way is answered.
        """
        for site in list(self._runner.sites):
            await site.stop()
        loop = asyncio.get_running_loop()
        until = loop.time() + _LAST_WORDS_S
        server = self._runner.server
        while server and server.connections and loop.time() < until:  # noqa: ASYNC110 (no event)
            await asyncio.sleep(_LOOK_S)
        await self._runner.cleanup()
        if self._unlink is not None:
            path, inode = self._unlink
            with contextlib.suppress(FileNotFoundError):
                if path.stat().st_ino == inode:
                    path.unlink()
            self._unlink = None

    def _listen(self, *, succeeds: bool) -> socket.socket:
        if isinstance(self._bind, UnixPath):
            path = state_path(self._bind.path)
            sock = listen_unix(path, succeeds=succeeds)
            self._unlink = (path, path.stat().st_ino)
            return sock
        family = socket.AF_INET6 if ":" in self._bind.host else socket.AF_INET
        sock = socket.socket(family)
        try:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            sock.bind((self._bind.host, self._bind.port))
            sock.listen(_BACKLOG)
        except OSError as error:
            sock.close()
            raise OSError(error.errno, f"cannot serve at {self._bind}: {error.strerror}") from error
        return sock


def listen_unix(path: Path, *, succeeds: bool = False) -> socket.socket:
    """A listening unix socket of mode 0600; a file that nobody listens at is replaced.

    Args:
        succeeds: replace one that somebody listens at, too.

    Raises:
        OSError: somebody listens there, or the path cannot be had.
    """
    draft = path.with_name(f".{os.getpid()}")
    sock = socket.socket(socket.AF_UNIX)
    try:
        _make_way(path, succeeds=succeeds)
        draft.unlink(missing_ok=True)
        sock.bind(str(draft))  # under another name first: at its own it has its mode from the start
        draft.chmod(0o600)
        sock.listen(_BACKLOG)
        draft.replace(path)
    except OSError as error:
        sock.close()
        draft.unlink(missing_ok=True)
        raise OSError(f"cannot serve at {path}: {error.strerror or error}") from error
    return sock


def _make_way(path: Path, *, succeeds: bool) -> None:
    """Make sure that whatever lies at `path` may be replaced."""
    if not path.exists():
        return
    if not path.is_socket():
        raise OSError("the file there is not a socket")
    if succeeds:
        return
    with socket.socket(socket.AF_UNIX) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(str(path))
        except (ConnectionRefusedError, FileNotFoundError):
            return
    raise OSError("another process serves there")


def _adapt(
    handler: Handler, timeout_s: float
) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handle(request: web.Request) -> web.StreamResponse:
        asked = Request(dict(request.query), request.headers.get("Authorization"))
        try:
            async with asyncio.timeout(timeout_s):
                answer = await handler(asked)
        except TimeoutError:
            answer = json_answer({"error": "this took too long"}, 503)
        except Exception:  # a fault of ours: told here, and never to whoever asked
            log.exception("http_failed", extra={"path": request.path})
            answer = json_answer({"error": "internal error"}, 500)
        headers = {"Content-Type": answer.content_type, "Cache-Control": "no-store"}
        return web.Response(
            body=answer.body, status=answer.status, headers=headers | dict(answer.headers)
        )

    return handle


async def _drop_banner(_: web.Request, response: web.StreamResponse) -> None:
    response.headers.pop("Server", None)


@dataclass(frozen=True, slots=True)
class Readiness:
    """Whether this node should be sent clients.

    Hosts that are down and a store that is away do not count against it: the other nodes see the
    same, and a load balancer that takes out all of them helps nobody.

    Attributes:
        hosts: by pool, how many hosts are up and how many there are.
    """

    listening: bool
    relays_attached: int
    stopping: bool
    store_up: bool
    hosts: Mapping[str, tuple[int, int]]

    @property
    def obstacle(self) -> str | None:
        """Why it should not; None where it should."""
        if self.stopping:
            return "stopping"
        if not self.listening:
            return "not listening yet"
        if not self.relays_attached:
            return "no relay is attached"
        return None


def public_routes(
    render: Callable[[], Awaitable[bytes]], metrics_type: str, readiness: Callable[[], Readiness]
) -> dict[str, Handler]:
    """/metrics, /healthz and /readyz."""
    rendering = 0

    async def metrics(_: Request) -> Answer:
        nonlocal rendering
        if rendering >= _RENDERS_AT_ONCE:
            return Answer(b"too many scrapes at once\n", 503, "text/plain")
        rendering += 1
        try:
            return Answer(await render(), content_type=metrics_type)
        finally:
            rendering -= 1

    async def healthz(_: Request) -> Answer:
        return json_answer({"alive": True})

    async def readyz(_: Request) -> Answer:
        state = readiness()
        details = {
            "ready": state.obstacle is None,
            "reason": state.obstacle,
            "relays": state.relays_attached,
            "affinity_store_up": state.store_up,
            "pools": {
                pool: {"hosts_up": up, "hosts": total} for pool, (up, total) in state.hosts.items()
            },
        }
        return json_answer(details, 200 if state.obstacle is None else 503)

    return {"/metrics": metrics, "/healthz": healthz, "/readyz": readyz}
