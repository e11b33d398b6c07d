"""Ports for servers that a test starts, or starts again, on a number of their own.

They lie below those that the kernel gives to whoever asks for any (32768 and up), and a process
hands none out twice. So between the question and the start nobody takes one: no client on its way
out, and no test that began earlier. Nor can a client that dials a server which is away be given the
very port that it dials, and meet itself.
"""

from __future__ import annotations

import itertools
import os
import socket
from contextlib import suppress

BUS = 10_000  # a Redis Cluster's servers talk to each other so much above their ports
_FIRST, _COUNT = 12_000, 10_000
_BLOCK = 100

# Tests that run beside these in one network begin elsewhere.
_numbers = itertools.count(os.getpid() * _BLOCK)


def free_port() -> int:
    """A port that nobody has, on any address; the one so much above it (`BUS`) is free too."""
    for number in itertools.islice(_numbers, _COUNT):
        port = _FIRST + number % _COUNT
        with socket.socket() as one, socket.socket() as other, suppress(OSError):
            one.bind(("", port))
            other.bind(("", port + BUS))
            return port
    raise RuntimeError("no port is free")
