"""Query parameters of the admin endpoint, read strictly: what means nothing is told, not ignored.

A client is named by its IP address, a user by the name in his client's cookie.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from difflib import get_close_matches
from typing import NamedTuple

from proxy.routing.key import IPAddress, normal_user
from proxy.routing.pool import Host, Pool

DEFAULT_LIMIT = 1000
_SHOWN = 10  # names


class QueryError(ValueError):
    """A parameter that means nothing, or a wish that cannot be met; the message says why."""


class Who(NamedTuple):
    """Somebody, as far as the question names him."""

    source: IPAddress | None
    user: str | None  # one spelling of it, see `normal_user`

    def is_in(self, key: str) -> bool:
        """Whether an affinity key (see `routing.key`) speaks of him, or of all at his address."""
        source, user = parts_of(key)
        if self.user is not None and self.user != user:
            return False
        if self.source is None:
            return self.user is not None
        return source is not None and self.source in ipaddress.ip_network(source, strict=False)


def parts_of(key: str) -> tuple[str | None, str | None]:
    """The source's network and the user in an affinity key."""
    source, found, user = key.partition("user:")
    source = source.rstrip()
    by_source = source.removeprefix("source:") if source.startswith("source:") else None
    return by_source, user if found and (by_source or not source) else None


def only(query: Mapping[str, str], *names: str) -> None:
    """Raises:
    QueryError: there is a parameter of another name.
    """
    for name in query:
        if name not in names:
            allowed = ", ".join(names) or "none"
            raise QueryError(f"unknown parameter {name!r}; there are: {allowed}")


def is_meant(query: Mapping[str, str], pool: str | None, host: str | None) -> bool:
    """Whether `pool` and `host` of the query, as far as they are given, are these."""
    return query.get("pool", pool) == pool and query.get("host", host) == host


def no_such(what: str, name: str, known: Iterable[str], where: str = "") -> QueryError:
    """Says that there is none of this name, and which there are: the like ones, else the first."""
    by_spelling = {one.lower(): one for one in known}
    near = get_close_matches(name.lower(), by_spelling, n=_SHOWN)
    shown = [by_spelling[one] for one in near or list(by_spelling)[:_SHOWN]]
    others = len(by_spelling) - len(shown)
    if near:
        said = f"like it: {', '.join(shown)}"
    else:
        said = f"there are: {', '.join(shown) or 'none'}{f' and {others} more' if others else ''}"
    return QueryError(f"there is no {what} {name!r}{where}; {said}")


def hosts_meant(query: Mapping[str, str], pools: Mapping[str, Pool]) -> list[Host]:
    """The hosts that `host` and `pool` of the query mean, as far as they are given.

    By the name of a DNS entry all of its addresses are meant.

    Raises:
        QueryError: there is no such pool or host.
    """
    pool, name = query.get("pool"), query.get("host")
    if pool is not None and pool not in pools:
        raise no_such("pool", pool, pools)
    chosen = pools.values() if pool is None else [pools[pool]]
    every = [host for it in chosen for host in it.hosts]
    found = [host for host in every if name in (None, host.name, host.settings.name)]
    if name is not None and not found:
        where = " in any pool" if pool is None else f" in pool {pool!r}"
        raise no_such("host", name, (host.name for host in every), where)
    return found


def limit(query: Mapping[str, str]) -> int:
    """How many rows are wanted."""
    text = query.get("limit", str(DEFAULT_LIMIT))
    if not (text.isascii() and text.isdigit() and len(text) < 10):
        raise QueryError(f"limit is a whole number, not {text!r}")
    return int(text)


def who(query: Mapping[str, str]) -> Who:
    """Whom `client` and `user` name."""
    source, user = query.get("client"), query.get("user")
    if user is not None and normal_user(user) is None:
        raise QueryError("user is empty")
    try:
        return Who(ipaddress.ip_address(source) if source is not None else None, normal_user(user))
    except ValueError:
        raise QueryError(f"client is an IP address, not {source!r}; a name is a user") from None
