from __future__ import annotations

import errno
import fcntl
import os
import select
import socket
from collections.abc import Iterator
from contextlib import suppress

import pytest

from proxy.relay.pipes import PIPE_BYTES, PIPES_MAX, Pipe, PipePool
from tests.patience import PATIENCE_S
from tests.unit.relay.harness import (
    close_by_reset,
    open_fds,
    read_to_end,
    tcp_pair,
)


@pytest.fixture
def pool() -> Iterator[PipePool]:
    before = open_fds(os.getpid())
    pool = PipePool()
    yield pool
    for pipe in list(pool._taken):
        pool.give_back(pipe)
    pool.trim()
    pool.trim()
    assert len(pool) == 0
    assert open_fds(os.getpid()) == before


@pytest.fixture
def source() -> Iterator[tuple[socket.socket, socket.socket]]:
    """A far end, and the near end that a pipe is filled from."""
    far, near = tcp_pair()
    near.setblocking(False)
    with far, near:
        yield far, near


def taken(pool: PipePool) -> Pipe:
    pipe = pool.take()
    assert pipe is not None
    return pipe


Ends = tuple[socket.socket, socket.socket]


def test_bytes_come_out_as_they_went_in_and_are_counted(pool: PipePool, source: Ends) -> None:
    far, near = source
    sink_far, sink = tcp_pair()
    pipe = taken(pool)
    far.sendall(b"in order")
    assert pipe.fill(near.fileno()) == len(pipe) == 8
    pipe.drain(sink.fileno())
    assert len(pipe) == 0
    assert sink_far.recv(100) == b"in order"
    far.close()
    assert pipe.fill(near.fileno()) == len(pipe) == 0, "the end of the stream"
    sink_far.close()
    sink.close()


def test_a_receiver_that_takes_a_part_leaves_the_rest_in_the_account(pool: PipePool) -> None:
    far, near = tcp_pair()
    sink_far, sink = tcp_pair(receive_buffer=4096)
    sink.setblocking(False)
    sent = bytes(range(256)) * 800
    pipe = taken(pool)
    filled = 0
    for begin in range(0, len(sent), len(sent) // 4):
        far.sendall(sent[begin : begin + len(sent) // 4])
        select.select([near], [], [], PATIENCE_S)
        filled += pipe.fill(near.fileno())
    pipe.drain(sink.fileno())
    assert 0 < len(pipe) < filled
    got = b""
    while len(pipe):
        got += sink_far.recv(1 << 20)
        with suppress(BlockingIOError):
            pipe.drain(sink.fileno())
    sink.close()
    assert got + read_to_end(sink_far) == sent[:filled]
    for sock in (far, near, sink_far):
        sock.close()


def test_an_empty_pipe_is_used_again(pool: PipePool) -> None:
    pipe = taken(pool)
    pool.give_back(pipe)
    assert pool.take() is pipe


def test_a_pipe_that_still_holds_bytes_is_closed_and_nobody_gets_it(
    pool: PipePool, source: Ends
) -> None:
    far, near = source
    pipe = taken(pool)
    far.sendall(b"one user's screen")
    pipe.fill(near.fileno())
    pool.give_back(pipe)
    assert len(pool) == 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        pipe.drain(near.fileno())
    assert pool.take() is not pipe


def test_a_receiver_that_is_gone_leaves_a_pipe_that_nobody_gets(
    pool: PipePool, source: Ends
) -> None:
    far, near = source
    sink_far, sink = tcp_pair()
    pipe = taken(pool)
    far.sendall(b"one user's screen")
    pipe.fill(near.fileno())
    close_by_reset(sink_far)
    with pytest.raises(ConnectionError):
        pipe.drain(sink.fileno())
    pool.give_back(pipe)
    assert len(pool) == 0
    sink.close()


def test_a_call_that_fails_in_any_way_leaves_no_pipe_that_counts_as_empty(
    pool: PipePool, source: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    far, near = source
    far.sendall(b"one user's screen")
    genuine = os.splice

    def moves_and_then_fails(*args: int, **more: int) -> int:
        genuine(*args, **more)
        raise MemoryError

    pipe = taken(pool)
    with monkeypatch.context() as patch:
        patch.setattr(os, "splice", moves_and_then_fails)
        with pytest.raises(MemoryError):
            pipe.fill(near.fileno())
    assert len(pipe) > 0
    pool.give_back(pipe)
    assert len(pool) == 0


def test_nothing_to_take_is_an_error_that_spoils_the_pipe(pool: PipePool, source: Ends) -> None:
    pipe = taken(pool)
    with pytest.raises(BlockingIOError):
        pipe.fill(source[1].fileno())
    pool.give_back(pipe)
    assert len(pool) == 0


def test_a_second_fill_adds_to_the_account(pool: PipePool, source: Ends) -> None:
    far, near = source
    pipe = taken(pool)
    for words in (b"first", b"second"):
        far.sendall(words)
        pipe.fill(near.fileno())
    assert len(pipe) == 11


def test_a_pipe_that_was_given_back_cannot_be_given_back_again(pool: PipePool) -> None:
    pipe = taken(pool)
    pool.give_back(pipe)
    with pytest.raises(KeyError):
        pool.give_back(pipe)
    assert taken(pool) is not taken(pool)


def test_there_are_so_many_pipes_and_no_more(pool: PipePool) -> None:
    pipes = [taken(pool) for _ in range(PIPES_MAX)]
    assert pool.take() is None
    pool.give_back(pipes.pop())
    assert pool.take() is not None


def test_no_more_descriptors_is_no_pipe(pool: PipePool, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(flags: int) -> tuple[int, int]:
        raise OSError(errno.EMFILE, "too many open files")

    with monkeypatch.context() as patch:
        patch.setattr(os, "pipe2", refuse)
        assert pool.take() is None
    assert len(pool) == 0


def test_a_user_who_may_hold_no_more_in_pipes_gets_small_ones(
    pool: PipePool, source: Ends, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(fd: int, command: int, size: int) -> int:
        assert (command, size) == (fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        raise PermissionError(errno.EPERM, "not permitted")

    with monkeypatch.context() as patch:
        patch.setattr(fcntl, "fcntl", refuse)
        pipe = taken(pool)
    assert fcntl.fcntl(pipe._write_fd, fcntl.F_GETPIPE_SZ) < PIPE_BYTES
    far, near = source
    far.sendall(b"still carried")
    assert pipe.fill(near.fileno()) == 13


def test_pipes_that_nobody_needed_for_a_while_are_closed(pool: PipePool) -> None:
    first, second, third = taken(pool), taken(pool), taken(pool)
    for pipe in (first, second, third):
        pool.give_back(pipe)
    pool.trim()
    assert len(pool) == 3, "they were needed since the last time"
    pool.give_back(taken(pool))
    pool.trim()
    assert len(pool) == 1
    assert pool.has_free
    pool.trim()
    assert len(pool) == 0
    assert not pool.has_free


def test_a_system_that_does_not_splice_is_not_asked_again(pool: PipePool) -> None:
    pool.give_back(taken(pool))
    assert not pool.refused(ConnectionResetError(errno.ECONNRESET, "reset"))
    assert len(pool) == 1
    assert pool.refused(PermissionError(errno.EPERM, "not permitted"))
    assert len(pool) == 0
    assert pool.take() is None
