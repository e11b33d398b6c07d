"""RedisUrl: where a Redis or Valkey table is, and how its servers are spoken to.

    redis://[USER[:PASSWORD]@]HOST[:PORT][/DB]                one server
    redis+sentinel://…@HOST[:PORT],HOST[:PORT]/NAME[/DB]      Sentinels, and the name they watch
    redis+cluster://…@HOST[:PORT],HOST[:PORT]                 some nodes of a Cluster

`rediss` instead of `redis` means TLS. After a `?` may stand `ca=FILE` (PEM certificates to trust
instead of the system's), `cert=FILE` (PEM certificate and key of this client) and
`password_file=FILE` (instead of a PASSWORD in the URL). Sentinels are asked without a password;
`sentinel_auth=yes` gives them the same one. Special characters of user and password are
percent-encoded.

Invariant: of any text comes a value or ValueError, whose message never holds a password.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Self
from urllib.parse import parse_qsl, unquote

from proxy.address import Address

_PORT = 6379
_SENTINEL_PORT = 26379
_OPTIONS = ("ca", "cert", "password_file", "sentinel_auth")


class RedisKind(StrEnum):
    """How the primary that holds a key is found."""

    SINGLE = ""
    SENTINEL = "sentinel"
    CLUSTER = "cluster"


@dataclass(frozen=True, slots=True)
class RedisUrl:
    """A URL, read. `addresses` are those of Sentinels or Cluster nodes where it names such."""

    kind: RedisKind
    addresses: tuple[Address, ...]
    name: str = ""  # of the primary that Sentinels watch
    db: int = 0
    user: str = ""
    password: str = ""
    password_file: str = ""
    is_tls: bool = False
    ca_file: str = ""
    cert_file: str = ""
    sentinel_auth: bool = False

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read a URL.

        Raises:
            ValueError: it is none; the message says what is missing.
        """
        scheme, slashes, rest = text.partition("://")
        protocol, _, kind_text = scheme.partition("+")
        if not slashes or protocol not in ("redis", "rediss") or scheme.endswith("+"):
            raise ValueError("it does not begin with redis:// or one of its kin")
        if kind_text not in (*RedisKind,):
            raise ValueError(f"+{kind_text} is neither +sentinel nor +cluster")
        kind = RedisKind(kind_text)
        rest, _, query = rest.partition("?")
        authority, _, path = rest.partition("/")
        credentials, _, hosts = authority.rpartition("@")
        user, _, password = credentials.partition(":")
        options = _options(query)
        is_tls = protocol == "rediss"
        if not is_tls and ("ca" in options or "cert" in options):
            raise ValueError("`ca` and `cert` go with rediss, which is TLS")
        if password and "password_file" in options:
            raise ValueError("it has both a password and a password_file")
        name, db = _place(kind, path)
        return cls(
            kind,
            _addresses(kind, hosts),
            name,
            db,
            unquote(user),
            unquote(password),
            options.get("password_file", ""),
            is_tls,
            options.get("ca", ""),
            options.get("cert", ""),
            options.get("sentinel_auth") == "yes",
        )


def _options(query: str) -> dict[str, str]:
    options: dict[str, str] = {}
    for key, value in parse_qsl(query, keep_blank_values=True, strict_parsing=bool(query)):
        if key not in _OPTIONS or key in options or not value:
            raise ValueError(f"after the ? stand {', '.join(_OPTIONS)}, each once and with a value")
        options[key] = value
    return options


def _addresses(kind: RedisKind, hosts: str) -> tuple[Address, ...]:
    port = _SENTINEL_PORT if kind is RedisKind.SENTINEL else _PORT
    if not hosts:
        raise ValueError("it names no host")
    addresses = tuple(Address.parse(host, port) for host in hosts.split(","))
    if kind is RedisKind.SINGLE and len(addresses) > 1:
        raise ValueError("several hosts are for redis+sentinel and redis+cluster")
    return addresses


def _place(kind: RedisKind, path: str) -> tuple[str, int]:
    """The name that Sentinels watch, and the number of the database."""
    name = ""
    if kind is RedisKind.SENTINEL:
        name, _, path = path.partition("/")
        if not name:
            raise ValueError("the name that the Sentinels watch is missing: …/NAME")
    if path and kind is RedisKind.CLUSTER:
        raise ValueError("a Cluster has no numbered databases")
    if not (path or "0").isascii() or not (path or "0").isdigit() or len(path) > 5:
        raise ValueError("a database is a number, as in /0")
    return unquote(name), int(path or "0")
