"""The command line's side of the HTTP endpoints: one request, over TCP or a unix socket.

Standard library only and without `http.client`, since container health checks run it every few
seconds and must start in milliseconds. HTTP/1.0, so the answer ends where the connection does.
"""

from __future__ import annotations

import socket

_ANSWER_MAX_BYTES = 256 << 20


def ask(
    endpoint: str,
    path: str,
    *,
    method: str = "GET",
    bearer: str | None = None,
    timeout_s: float = 5.0,
) -> Answer:
    """Status and body of a request (a GET, where nothing else is said) at `unix:PATH` or
    `HOST:PORT`.

    Raises:
        OSError: nobody answers there.
        EndpointError: the end point is not one.
        ValueError: somebody else than an HTTP server answers.
    """
    lines = [
        f"{method} {path} HTTP/1.0",
        f"Host: {'localhost' if _is_unix(endpoint) else endpoint}",
    ]
    if bearer is not None:
        lines.append(f"Authorization: Bearer {bearer}")
    with _connected(endpoint, timeout_s) as sock:
        sock.sendall("\r\n".join([*lines, "", ""]).encode())
        data = bytearray()
        while chunk := sock.recv(1 << 16):
            data += chunk
            if len(data) > _ANSWER_MAX_BYTES:
                raise ValueError(f"{endpoint} does not end its answer")
    head, _, body = bytes(data).partition(b"\r\n\r\n")
    words = head.split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/") or not words[1].isdigit():
        raise ValueError(f"{endpoint} does not speak HTTP")
    return int(words[1]), body


Answer = tuple[int, bytes]


class EndpointError(ValueError):
    """What was given as an end point is none."""


def _is_unix(endpoint: str) -> bool:
    return endpoint.startswith("unix:")


def _connected(endpoint: str, timeout_s: float) -> socket.socket:
    if not _is_unix(endpoint):
        host, _, port = endpoint.rpartition(":")
        if not host or not port.isdigit():
            raise EndpointError(f"{endpoint!r} is not HOST:PORT")
        return socket.create_connection((host.strip("[]"), int(port)), timeout_s)
    sock = socket.socket(socket.AF_UNIX)
    try:
        sock.settimeout(timeout_s)
        sock.connect(endpoint.removeprefix("unix:"))
    except BaseException:
        sock.close()
        raise
    return sock
