"""What many unit tests start from."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest


@pytest.fixture
def pair() -> Iterator[tuple[socket.socket, socket.socket]]:
    """Two ends of a connection, the near one as the product has it."""
    near, far = socket.socketpair()
    near.setblocking(False)
    with near, far:
        yield near, far
