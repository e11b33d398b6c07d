"""The command line's request: answers, and who is no HTTP server."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from proxy.control.client import ask


@contextmanager
def answering(answer: bytes) -> Iterator[str]:
    """A server that reads one request and sends `answer` in small pieces."""
    server = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        sock, _ = server.accept()
        with sock:
            sock.recv(65536)
            for at in range(0, len(answer), 7):
                sock.sendall(answer[at : at + 7])

    thread = threading.Thread(target=serve)
    thread.start()
    try:
        yield f"127.0.0.1:{server.getsockname()[1]}"
    finally:
        thread.join()
        server.close()


def test_an_answer_is_read_to_its_end() -> None:
    with answering(b"HTTP/1.1 503 Service Unavailable\r\nX: y\r\n\r\nbody\r\n\r\nmore") as endpoint:
        assert ask(endpoint, "/readyz") == (503, b"body\r\n\r\nmore")


@pytest.mark.parametrize("answer", [b"", b"SSH-2.0-x\r\n", b"HTTP/1.1\r\n\r\n", b"HTTP/1.1 two x"])
def test_who_does_not_speak_http_is_told(answer: bytes) -> None:
    with answering(answer) as endpoint, pytest.raises(ValueError, match="does not speak HTTP"):
        ask(endpoint, "/")


@pytest.mark.parametrize("endpoint", ["", "localhost", "localhost:", ":80", "localhost:http"])
def test_what_is_no_end_point_is_told(endpoint: str) -> None:
    with pytest.raises(ValueError, match=r"is not HOST:PORT"):
        ask(endpoint, "/")


def test_nobody_there_is_an_os_error() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
    with pytest.raises(OSError):
        ask(f"127.0.0.1:{port}", "/")
    with pytest.raises(OSError):
        ask("unix:/nonexistent/admin.sock", "/")
