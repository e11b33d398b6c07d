"""Pipes: bytes of a direction in bulk pass from socket to socket without a copy (splice(2)).

A pipe that is given to another direction while it still holds bytes would hand one user's screen
to another. So the account of what it holds is kept where the system calls are, and nowhere else; it
reads full while a call is under way, whatever becomes of that call; and one function takes pipes
back, which keeps none but those whose account is zero.

Pipes are owned only while they hold bytes: a pool serves all connections, and shrinks to nothing
while none is in bulk. pipe(7): what an unprivileged user may hold in pipes is limited for all of
the user's processes together (64 MiB: four relays with all of their pipes), after which a pipe
stays small, or F_SETPIPE_SZ fails; that is slower and nothing else.
"""

from __future__ import annotations

import errno
import fcntl
import os
from contextlib import suppress

PIPE_BYTES = 512 * 1024
PIPES_MAX = 32
_FLAGS = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK
_NOT_ALLOWED = (errno.EINVAL, errno.ENOSYS, errno.EPERM)


class Pipe:
    """Holds the bytes of one direction, in order.

    Attributes:
        held: how many bytes are in it, or more: never fewer.
    """

    __slots__ = ("_read_fd", "_write_fd", "held")

    def __init__(self) -> None:
        """Raises OSError where the system has no more of them."""
        self._read_fd, self._write_fd = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.held = 0
        with suppress(OSError):  # it holds less, then
            fcntl.fcntl(self._write_fd, fcntl.F_SETPIPE_SZ, PIPE_BYTES)

    def __len__(self) -> int:
        return self.held

    def fill(self, fd: int) -> int:
        """Take from a socket what is there and has room; 0 is the end of its stream.

        Raises OSError as recv(2) does. After that the pipe does not count as empty.
        """
        before = self.held
        self.held = before + PIPE_BYTES
        size = os.splice(fd, self._write_fd, PIPE_BYTES, flags=_FLAGS)
        self.held = before + size
        return size

    def drain(self, fd: int) -> None:
        """Give a socket what it takes. Raises OSError as send(2) does."""
        self.held -= os.splice(self._read_fd, fd, self.held, flags=_FLAGS)

    def close(self) -> None:
        """With all that it holds."""
        os.close(self._read_fd)
        os.close(self._write_fd)


class PipePool:
    """The pipes of a relay process: at most PIPES_MAX, free and taken ones together."""

    def __init__(self) -> None:
        self._free: list[Pipe] = []
        self._taken: set[Pipe] = set()
        self._limit = PIPES_MAX
        self._unused = 0  # the fewest that were free at any time since the last `trim`

    def __len__(self) -> int:
        """How many are open."""
        return len(self._free) + len(self._taken)

    @property
    def has_free(self) -> bool:
        """Whether there is something to trim."""
        return bool(self._free)

    def take(self) -> Pipe | None:
        """An empty pipe, if one can be had."""
        free = self._free
        if free:
            pipe = free.pop()
            if len(free) < self._unused:
                self._unused = len(free)
        elif len(self._taken) < self._limit:
            try:
                pipe = Pipe()
            except OSError:
                return None
        else:
            return None
        self._taken.add(pipe)
        return pipe

    def give_back(self, pipe: Pipe) -> None:
        """The only way back: whatever is not known to be empty is closed.

        Raises KeyError for a pipe that was not taken, or was given back before.
        """
        self._taken.remove(pipe)
        if pipe.held == 0:
            self._free.append(pipe)
        else:
            pipe.close()

    def trim(self) -> None:
        """Close those that nobody needed since the last time."""
        unused = self._unused
        for pipe in self._free[:unused]:
            pipe.close()
        del self._free[:unused]
        self._unused = len(self._free)

    def refused(self, error: OSError) -> bool:
        """Whether the system does not splice at all (a filter of system calls, another kernel).

        From then on there are no pipes.
        """
        if error.errno not in _NOT_ALLOWED:
            return False
        self._limit = 0
        self._unused = len(self._free)
        self.trim()
        return True
