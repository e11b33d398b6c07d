"""How Redis is reached: redis-py, bent to a path on which nobody may wait.

The library's defaults are made for programs that may: ten retries take 4.6 seconds to report a
closed port. Here nothing is retried, no connection is pinged before use, and no answer is awaited
longer than a call may take. (`Retry` must be the one of `redis.asyncio`: the other one is accepted
and never awaited.) To connect may take a second, for `probe`; the path has limits of its own.

The client of a Cluster reads its map anew after every failure, in the middle of whatever call
comes next, and closes the connections to all nodes when that call is cancelled: one node that
stands still would hold up the calls to all others. So calls go to their node itself, and the client
is asked on the path only to follow a redirection. To read the map fills 16,384 places in one step
of the loop, some 5 ms, and has all connections made again. So `refresh`, beside the path, asks any
one node who holds what, and has the map read only where it says otherwise.

Invariant: every error of the library is in `FAILURES`.
"""

from __future__ import annotations

import asyncio
import os
import random
import ssl
from collections.abc import Awaitable, Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from redis.asyncio import Redis, Sentinel
from redis.asyncio.cluster import ClusterNode, PipelineCommand, RedisCluster
from redis.asyncio.retry import Retry
from redis.asyncio.sentinel import MasterNotFoundError
from redis.backoff import NoBackoff
from redis.exceptions import (
    AskError,
    AuthenticationError,
    AuthorizationError,
    ClusterError,
    InvalidResponse,
    MovedError,
    NoPermissionError,
    NoScriptError,
    RedisClusterException,
    RedisError,
)

from proxy.affinity.breaker import CALL_LIMIT_S
from proxy.affinity.redis_scripts import PROBE, Script
from proxy.errors import StoreError
from proxy.redis_url import RedisKind, RedisUrl

CALLS_MAX = 16  # at one time; the library raises where a server would get more connections
CONNECT_LIMIT_S = 1.0
PROBE_NAMES = 1000

FAILURES = (RedisError, RedisClusterException, OSError)  # TimeoutError is an OSError


class ConnectionClosedError(RedisError):
    """The library has closed a connection under a call."""


class WrongUrlError(RedisError):
    """The servers answer, and are not what the URL says."""


_MISTAKES = (
    AuthenticationError,
    AuthorizationError,
    InvalidResponse,  # it does not speak Redis
    NoPermissionError,
    WrongUrlError,
    ssl.SSLCertVerificationError,
)


class RedisClient:
    """The servers behind one URL. It connects when it is used."""

    def __init__(self, url: RedisUrl) -> None:
        """Make a client.

        Raises:
            StoreError: a file that the URL names cannot be read.
        """
        self._sentinel = _sentinel(url) if url.kind is RedisKind.SENTINEL else None
        self._client = _client(url) if self._sentinel is None else _named(self._sentinel, url)
        self._cluster = self._client if isinstance(self._client, RedisCluster) else None
        self._name = url.name or str(url.addresses[0])  # of the one primary, outside of a Cluster
        self._failed: set[str] = set()  # servers of a Cluster that did not answer as they should

    def servers(self) -> list[str]:
        """The names of all primaries."""
        if self._cluster is None:
            return [self._name]
        return [node.name for node in self._cluster.get_primaries()]

    def server_of(self, name: bytes) -> str:
        """The primary that holds a key."""
        if self._cluster is None:
            return self._name
        try:
            node = self._cluster.get_node_from_key(name.decode())
        except RedisClusterException as error:
            raise StoreError(str(error)) from error
        return node.name if node else self._name

    async def refresh(self) -> None:
        """See where the primaries are. It takes its time; not for the path."""
        if self._cluster is None:
            return
        try:
            with _told_when_closed():
                await self._cluster.initialize()  # at first, and after a redirection in vain
            if not self._is_map_of(await self._ranges()):
                failed = next(iter(self._failed), None)
                with _told_when_closed():
                    await self._cluster.nodes_manager.initialize(last_failed_node_name=failed)
        except IndexError as error:  # so the library says that nobody holds any slot
            raise ClusterError("the Cluster has no slots yet") from error

    async def command(self, server: str, *words: Any) -> Any:
        """What a command answers."""
        with _told_when_closed():
            if self._cluster is None:
                return await self._client.execute_command(*words)
            try:
                return await self._node(server).execute_command(*words)
            except AskError:  # or MovedError: it goes to another node
                return await self._cluster.execute_command(*words)

    async def run(self, server: str, script: Script, *arguments: bytes) -> Any:
        """What a script answers; it is taught to a server that does not know it."""
        try:
            return await self.command(server, *script.call(*arguments))
        except NoScriptError:
            return await self.command(server, *script.teach(*arguments))

    async def run_each(
        self, server: str, script: Script, rounds: Sequence[tuple[bytes, ...]]
    ) -> list[Any]:
        """What a script answers to each of these arguments, whose keys are on one server."""
        calls = [script.call(*arguments) for arguments in rounds]
        return await self._each(server, calls, lambda i: self.run(server, script, *rounds[i]))

    async def fields_of_each(
        self, server: str, names: Sequence[bytes], fields: Sequence[bytes]
    ) -> list[Any]:
        """These fields of each of these keys, which are on one server."""
        calls = [("HMGET", name, *fields) for name in names]
        return await self._each(server, calls, lambda i: self.command(server, *calls[i]))

    async def scan_page(
        self, server: str, cursor: int, pattern: str, count: int, fields: Sequence[bytes]
    ) -> tuple[int, list[tuple[bytes, list[bytes]]]]:
        """The next cursor (0: it was the last page), and these fields of the keys of a page."""
        words = ("SCAN", cursor, "MATCH", pattern, "COUNT", count)
        next_cursor, names = await self.command(server, *words)
        values = await self._send(server, [("HMGET", name, *fields) for name in names])
        found = zip(names, values, strict=True)
        return next_cursor, [(name, row) for name, row in found if isinstance(row, list)]

    async def probe(self, server: str) -> None:
        """Let a primary take a write that leaves nothing behind, on some key that it holds.

        Raises:
            WrongUrlError: it is not what the URL says; or any other of `FAILURES`.
        """
        names = (b"rdp-proxy:probe:%d" % number for number in range(PROBE_NAMES))
        name = next((name for name in names if self.server_of(name) == server), None)
        if name is None:  # it holds next to nothing
            await self.command(server, "PING")
            return
        self._failed.add(server)
        try:
            await self.command(server, *PROBE.teach(name, b""))
        except MovedError as error:
            raise WrongUrlError("a Cluster's URL begins with redis+cluster://") from error
        except MasterNotFoundError as error:
            if await self._is_unknown(self._name):
                raise WrongUrlError(f"no Sentinel knows {self._name}") from error
            raise
        self._failed.discard(server)

    async def close(self) -> None:
        """Give the connections back."""
        await self._client.aclose()
        if self._cluster is not None:  # which does not close what it has yet to read anew
            for nodes in ("nodes_cache", "startup_nodes"):
                await self._cluster.nodes_manager.aclose(nodes)
        if self._sentinel is not None:
            await self._sentinel.aclose()

    async def _is_unknown(self, name: str) -> bool:
        """Whether Sentinels answer, and none of them has ever heard of this name."""
        assert self._sentinel is not None
        asked = (one.sentinel_masters() for one in self._sentinel.sentinels)
        answers = await asyncio.gather(*asked, return_exceptions=True)
        known = [answer for answer in answers if isinstance(answer, dict)]
        return bool(known) and not any(name in answer for answer in known)

    async def _ranges(self) -> list[tuple[int, int, str]]:
        """First slot, last slot and primary of each range, as the first node says that answers:
        any one, so that none is believed for ever, and those that failed last."""
        assert self._cluster is not None
        nodes = [*self._cluster.get_nodes(), *self._cluster.startup_nodes]
        self._failed &= {node.name for node in nodes}
        random.shuffle(nodes)
        nodes.sort(key=lambda node: node.name in self._failed)
        for node in nodes:
            try:
                with _told_when_closed():
                    ranges = await node.execute_command("CLUSTER SLOTS")
            except FAILURES as error:
                failure = error
                self._failed.add(node.name)
            else:
                self._failed.discard(node.name)
                return [
                    (first, last, f"{primary[0].decode() or node.host}:{primary[1]}")
                    for first, last, primary, *_replicas in ranges
                ]
        raise failure

    def _is_map_of(self, ranges: list[tuple[int, int, str]]) -> bool:
        """Whether the library's map says the same of both ends of each range; what lies between
        them cannot differ without that, but where a range has swallowed another one whole: and that
        a redirection corrects."""
        assert self._cluster is not None
        slots = self._cluster.nodes_manager.slots_cache
        ends = [(slot, primary) for *both, primary in ranges for slot in both]
        return {primary for _slot, primary in ends} == set(self.servers()) and all(
            slot in slots and slots[slot][0].name == primary for slot, primary in ends
        )

    def _node(self, server: str) -> ClusterNode:
        assert self._cluster is not None
        node = self._cluster.get_node(node_name=server)
        if node is None:
            raise ClusterError(f"{server} has left the Cluster")
        return node

    async def _each(
        self,
        server: str,
        calls: Sequence[tuple[Any, ...]],
        again: Callable[[int], Awaitable[Any]],
    ) -> list[Any]:
        """The replies to commands that are sent together; what one of them wants otherwise is done
        `again`, by its number."""
        replies = await self._send(server, calls)
        for i, reply in enumerate(replies):
            if isinstance(reply, NoScriptError | AskError):
                replies[i] = await again(i)
            elif isinstance(reply, Exception):
                with _told_when_closed():
                    raise reply
        return replies

    async def _send(self, server: str, commands: Sequence[tuple[Any, ...]]) -> list[Any]:
        """The replies to commands that are sent together, errors among them."""
        if not commands:
            return []
        with _told_when_closed():
            if self._cluster is not None:
                sent = [PipelineCommand(i, *words) for i, words in enumerate(commands)]
                await self._node(server).execute_pipeline(sent)
                return [one.result for one in sent]
            async with self._client.pipeline(transaction=False) as pipe:
                for words in commands:
                    pipe.execute_command(*words)
                replies: list[Any] = await pipe.execute(raise_on_error=False)
            return replies


def is_mistake(error: BaseException) -> bool:
    """Whether no waiting will cure it: a wrong password, name, certificate or kind of server."""
    return any(
        isinstance(cause, _MISTAKES)
        or (getattr(cause, "status_code", None) == "ERR" and not _is_of_a_script(cause))
        or "Cluster mode is not enabled" in str(cause)
        for cause in _causes(error)
    )


def _is_of_a_script(error: BaseException) -> bool:
    """Whether Redis 6.2 says in its own way that a script could not write."""
    return str(error).startswith("Error running script")


@contextmanager
def _told_when_closed() -> Iterator[None]:
    """Have it said in so many words where the library closes a connection, of a Cluster whose
    server failed, under another call that is about to write to it. It goes on with a transport that
    uvloop has closed, or with none."""
    try:
        yield
    except (RuntimeError, AttributeError) as error:
        raise ConnectionClosedError("the connection was closed meanwhile") from error


def explain(error: BaseException) -> str:
    """One line for the operator: what the system said, else what the library said."""
    causes = list(_causes(error))
    for cause in causes:
        if isinstance(cause, WrongUrlError):
            return str(cause)
        if isinstance(cause, ssl.SSLError):
            return str(cause)
        if isinstance(cause, OSError) and cause.errno:
            return os.strerror(cause.errno) if cause.errno > 0 else str(cause.strerror)
    told = [str(cause).partition("\n")[0] for cause in causes if str(cause)]
    return told[0] if told else "no answer in time"


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    while cause is not None:
        yield cause
        cause = cause.__cause__ or cause.__context__


def _client(url: RedisUrl) -> Redis | RedisCluster:
    options = _options(url)
    if url.kind is RedisKind.SINGLE:
        ((host, port),) = url.addresses
        return Redis(host=host, port=port, db=url.db, **options)
    return RedisCluster(
        startup_nodes=[ClusterNode(host, port) for host, port in url.addresses],
        require_full_coverage=False,
        dynamic_startup_nodes=False,  # the URL's names stay good when all addresses change
        reinitialize_steps=0,  # a MOVED corrects one slot, and closes no connection
        **options,
    )


def _sentinel(url: RedisUrl) -> Sentinel:
    options = _options(url)
    theirs = dict(options)
    if not url.sentinel_auth:
        theirs |= {"username": None, "password": None}
    return Sentinel(  # type: ignore[no-untyped-call]
        url.addresses, sentinel_kwargs=theirs, db=url.db, **options
    )


def _named(sentinel: Sentinel, url: RedisUrl) -> Redis:
    primary: Redis = sentinel.master_for(url.name)
    return primary


def _options(url: RedisUrl) -> dict[str, Any]:
    try:
        password = url.password
        if url.password_file:
            password = Path(url.password_file).read_text("utf-8").strip()
        tls: dict[str, Any] = {}
        if url.is_tls:
            tls = {"ssl": True}
            if url.ca_file:
                tls["ssl_ca_data"] = Path(url.ca_file).read_text("ascii")
            if url.cert_file:
                Path(url.cert_file).read_bytes()
                tls["ssl_certfile"] = tls["ssl_keyfile"] = url.cert_file
    except (OSError, ValueError) as error:
        raise StoreError(f"affinity.url: {error}") from error
    return {
        "username": url.user or None,
        "password": password or None,
        "protocol": 2,
        "driver_info": None,  # one question less, and one permission
        "socket_timeout": CALL_LIMIT_S,
        "socket_connect_timeout": CONNECT_LIMIT_S,
        "max_connections": CALLS_MAX + 2,  # for probes, too
        "retry": Retry(NoBackoff(), 0),
        **tls,
    }
