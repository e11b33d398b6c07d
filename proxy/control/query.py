"""Query parameters of the admin endpoint, read strictly: what means nothing is told, not ignored.

A client is named by its IP address, a user by the name in his client's cookie.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping
from typing import NamedTuple

from proxy.routing.key import IPAddress, normal_user

DEFAULT_LIMIT = 1000


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
