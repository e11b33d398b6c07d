"""HTTP endpoints on real sockets: what they answer, where they listen, and whom they let be."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from proxy.address import Address
from proxy.control import client, http
from proxy.control.http import (
    Answer,
    Handler,
    HttpServer,
    Readiness,
    Request,
    json_answer,
    listen_unix,
    public_routes,
)
from proxy.settings import UnixPath
from tests.patience import PATIENCE_S

LOOPBACK = Address("127.0.0.1", 0)
READY = Readiness(True, 2, False, True, {"desktops": (1, 2)})


@asynccontextmanager
async def serving(
    routes: Mapping[str, Handler], bind: Address | UnixPath = LOOPBACK
) -> AsyncIterator[str]:
    """An HttpServer; yields the end point for `get`."""
    server = HttpServer(bind, routes)
    await server.start()
    try:
        yield str(server.bound)
    finally:
        await server.stop()


async def ask(
    endpoint: str, path: str, bearer: str | None = None, method: str = "GET"
) -> tuple[int, bytes]:
    return await asyncio.to_thread(client.ask, endpoint, path, bearer=bearer, method=method)


async def ask_json(
    endpoint: str, path: str, bearer: str | None = None, method: str = "GET"
) -> tuple[int, Any]:
    status, body = await ask(endpoint, path, bearer, method)
    return status, json.loads(body)


async def raw(endpoint: str, request: bytes) -> bytes:
    """Everything that the server answers to these bytes."""

    def talk() -> bytes:
        host, _, port = endpoint.rpartition(":")
        with socket.create_connection((host, int(port)), 5) as sock:
            sock.sendall(request)
            answer = b""
            while chunk := sock.recv(65536):
                answer += chunk
            return answer

    return await asyncio.to_thread(talk)


def public(
    readiness: Readiness = READY, render: Callable[[], Awaitable[bytes]] | None = None
) -> dict[str, Handler]:
    async def text() -> bytes:
        return b"rdp_proxy_up 1\n"

    return public_routes(render or text, "text/plain; version=0.0.4", lambda: readiness)


async def test_a_ready_proxy_says_so_with_its_details() -> None:
    async with serving(public()) as endpoint:
        assert await ask_json(endpoint, "/readyz") == (
            200,
            {
                "ready": True,
                "reason": None,
                "relays": 2,
                "affinity_store_up": True,
                "pools": {"desktops": {"hosts_up": 1, "hosts": 2}},
            },
        )


@pytest.mark.parametrize(
    ("readiness", "reason"),
    [
        (Readiness(True, 2, True, True, {}), "stopping"),
        (Readiness(False, 2, False, True, {}), "not listening yet"),
        (Readiness(True, 0, False, True, {}), "no relay is attached"),
    ],
)
async def test_a_proxy_that_is_not_ready_says_why(readiness: Readiness, reason: str) -> None:
    async with serving(public(readiness)) as endpoint:
        status, details = await ask_json(endpoint, "/readyz")
        assert (status, details["ready"], details["reason"]) == (503, False, reason)
        assert (await ask(endpoint, "/healthz"))[0] == 200, "it lives all the same"


async def test_neither_hosts_nor_store_take_the_proxy_out_of_service() -> None:
    async with serving(public(Readiness(True, 1, False, False, {"a": (0, 3)}))) as endpoint:
        status, details = await ask_json(endpoint, "/readyz")
        assert status == 200
        assert details["affinity_store_up"] is False
        assert details["pools"]["a"] == {"hosts_up": 0, "hosts": 3}


async def test_metrics_are_served_as_prometheus_expects() -> None:
    async with serving(public()) as endpoint:
        answer = await raw(endpoint, b"GET /metrics HTTP/1.0\r\n\r\n")
    head, _, body = answer.partition(b"\r\n\r\n")
    assert b"200 OK" in head
    assert b"Content-Type: text/plain; version=0.0.4" in head
    assert body == b"rdp_proxy_up 1\n"


async def test_too_many_scrapes_at_once_are_turned_away() -> None:
    go = asyncio.Event()
    begun = asyncio.Semaphore(0)

    async def render() -> bytes:
        begun.release()
        await go.wait()
        return b""

    async with serving(public(render=render)) as endpoint, asyncio.TaskGroup() as tasks:
        waiting = [tasks.create_task(ask(endpoint, "/metrics")) for _ in range(4)]
        for _ in waiting:
            await begun.acquire()
        assert (await ask(endpoint, "/metrics"))[0] == 503
        go.set()
        assert {(await task)[0] for task in waiting} == {200}
        assert (await ask(endpoint, "/metrics"))[0] == 200


@pytest.mark.parametrize("path", ["/", "/metrics/", "/nothing", "/../etc/passwd"])
async def test_other_paths_are_not_found(path: str) -> None:
    async with serving(public()) as endpoint:
        assert (await ask(endpoint, path))[0] == 404


@pytest.mark.parametrize("method", [b"POST", b"DELETE", b"PUT"])
async def test_nothing_can_be_changed(method: bytes) -> None:
    async with serving(public()) as endpoint:
        answer = await raw(endpoint, method + b" /readyz HTTP/1.0\r\n\r\n")
        assert b" 405 " in answer.splitlines()[0]


async def test_no_answer_names_the_software_behind_it() -> None:
    async with serving(public()) as endpoint:
        for path in (b"/readyz", b"/nothing"):
            answer = await raw(endpoint, b"GET " + path + b" HTTP/1.0\r\n\r\n")
            assert b"server:" not in answer.lower()


@pytest.mark.parametrize("noise", [b"\x03\x00\x00\x13\x0e\xe0\0\0\0\0\0\r\n\r\n", b"GET\r\n\r\n"])
async def test_noise_is_refused_without_a_log_line(
    noise: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    async with serving(public()) as endpoint:
        answer = await raw(endpoint, noise)
    assert b" 400 " in answer.splitlines()[0]
    assert caplog.records == []


async def test_a_handler_that_fails_is_logged_and_answered(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def fail(_: Request) -> Answer:
        raise RuntimeError("boom")

    async with serving({"/f": fail}) as endpoint:
        status, body = await ask(endpoint, "/f")
    assert (status, b"boom" in body) == (500, False)
    assert [record.message for record in caplog.records] == ["http_failed"]


async def test_a_handler_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http, "_REQUEST_TIMEOUT_S", 0.01)

    async def hang(_: Request) -> Answer:
        await asyncio.Event().wait()
        raise AssertionError

    async with serving({"/": hang}) as endpoint:
        assert (await ask(endpoint, "/"))[0] == 503


async def test_a_handler_learns_query_and_authorization() -> None:
    async def echo(request: Request) -> Answer:
        return json_answer([dict(request.query), request.authorization])

    async with serving({"/e": echo}) as endpoint:
        assert await ask_json(endpoint, "/e?a=1&b=%20x", "secret") == (
            200,
            [{"a": "1", "b": " x"}, "Bearer secret"],
        )
        assert await ask_json(endpoint, "/e") == (200, [{}, None])


async def test_ipv6_is_served_too() -> None:
    async with serving(public(), Address("::1", 0)) as endpoint:
        assert endpoint.startswith("[::1]:")
        assert (await ask(endpoint, "/healthz"))[0] == 200


async def test_an_address_that_is_taken_is_named() -> None:
    async with serving(public()) as endpoint:
        again = HttpServer(Address.parse(endpoint), public())
        with pytest.raises(OSError, match=f"cannot serve at {endpoint}: .* in use"):
            await again.start()
        await again.stop()


async def test_a_socket_that_listens_already_is_served() -> None:
    listening = socket.create_server(("127.0.0.1", 0))
    server = HttpServer(Address("0.0.0.0", 1), public())
    await server.start(listening)
    assert server.bound == Address(*listening.getsockname())
    assert (await ask(str(server.bound), "/healthz"))[0] == 200
    await server.stop()


async def test_a_unix_socket_is_its_owners_alone_and_goes_with_the_server(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with serving(public(), UnixPath(str(path))) as endpoint:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert (await ask(endpoint, "/healthz"))[0] == 200
    assert not path.exists()


async def test_a_relative_unix_socket_lies_in_the_state_directory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", str(tmp_path))
    async with serving(public(), UnixPath("admin.sock")):
        assert (tmp_path / "admin.sock").is_socket()


async def test_a_socket_that_a_dead_process_left_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    listen_unix(path).close()
    assert path.is_socket()
    async with serving(public(), UnixPath(str(path))) as endpoint:
        assert (await ask(endpoint, "/healthz"))[0] == 200


async def test_a_socket_where_somebody_serves_is_left_to_them(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    async with serving(public(), UnixPath(str(path))) as endpoint:
        other = HttpServer(UnixPath(str(path)), public())
        with pytest.raises(OSError, match=r"admin\.sock: another process serves there"):
            await other.start()
        await other.stop()
        assert (await ask(endpoint, "/healthz"))[0] == 200


async def test_a_question_that_is_on_its_way_at_a_stop_is_answered(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(http, "_LAST_WORDS_S", PATIENCE_S)

    async def late(_: Request) -> Answer:
        return json_answer({"late": True})

    server = HttpServer(LOOPBACK, {"/late": late})
    await server.start()
    assert isinstance(server.bound, Address)
    reader, writer = await asyncio.open_connection(*server.bound)
    runner = server._runner.server
    assert runner is not None
    while not runner.connections:  # noqa: ASYNC110 (until it is accepted)
        await asyncio.sleep(0)
    stopping = asyncio.create_task(server.stop())
    while server._runner.sites:  # noqa: ASYNC110 (until nobody else is)
        await asyncio.sleep(0)
    writer.write(b"GET /late HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n")
    assert (await reader.read()).startswith(b"HTTP/1.1 200 ")
    await stopping
    writer.close()
    await writer.wait_closed()


async def test_a_socket_that_another_process_took_over_stays_at_stop(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    server = HttpServer(UnixPath(str(path)), public())
    await server.start()
    path.unlink()
    with listen_unix(path):
        await server.stop()
        assert path.is_socket()


async def test_a_file_that_is_no_socket_is_never_replaced(tmp_path: Path) -> None:
    path = tmp_path / "admin.sock"
    path.write_text("precious")
    with pytest.raises(OSError, match="not a socket"):
        listen_unix(path)
    assert path.read_text() == "precious"


def test_a_directory_that_is_missing_is_named(tmp_path: Path) -> None:
    with pytest.raises(OSError, match=r"cannot serve at .*/missing/a\.sock: No such file"):
        listen_unix(tmp_path / "missing" / "a.sock")


def test_a_path_that_is_too_long_for_a_socket_is_told(tmp_path: Path) -> None:
    folder = tmp_path / ("x" * 100)
    folder.mkdir()
    with pytest.raises(OSError, match="too long"):
        listen_unix(folder / "admin.sock")
    assert os.listdir(folder) == []  # noqa: PTH208
