"""Notation: how single values are written in the configuration file, and read from it.

A `Reader` is the annotation of a settings field. It takes the text of the file (the file is read
without guessing: every scalar is a text until a field asks for it) or a ready Python value, so that
settings can be built by hand, and says in plain words what is wanted where it reads neither.

Invariants: of any text a reader makes a value or ValueError, nothing else; a value reads as itself,
and what `write` makes of it reads as that value again.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Network, IPv6Network, ip_network
from typing import Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler
from pydantic_core import CoreSchema, core_schema

from proxy.address import Address
from proxy.redis_url import RedisUrl

Network = IPv4Network | IPv6Network

_UNIX_PATH_MAX_BYTES = 107  # sun_path of unix(7) less its closing zero
_UNIT_S = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}


@dataclass(frozen=True, slots=True)
class Rate:
    """At most `count` events in `per_s` seconds, written `600/m`."""

    count: int
    per_s: float

    def __str__(self) -> str:
        unit = next((unit for unit, unit_s in _UNIT_S.items() if unit_s == self.per_s), None)
        return f"{self.count}/{unit or duration_text(self.per_s)}"


@dataclass(frozen=True, slots=True)
class UnixPath:
    """A unix socket, written `unix:admin.sock`; a relative path is for
    `settings.state_path`."""

    path: str

    def __str__(self) -> str:
        return f"unix:{self.path}"


@dataclass(frozen=True, slots=True, eq=False)
class Reader:
    """How one kind of value is read: an annotation, as in `Annotated[int, whole(1, 9)]`.

    `read` takes the text of the file or a ready value and raises ValueError; `wanted` is what the
    message then says in its place. `word` is the one that stands for None, as `off` does.
    """

    wanted: str
    read: Callable[[Any], object]
    schema: Mapping[str, Any]
    word: str | None = None
    secret: bool = False  # never shown in a message

    def __call__(self, value: object) -> object:
        if self.word is not None and value in (None, self.word):
            return None
        why = ""
        if value is not None and value != "" and not isinstance(value, list | dict):
            try:
                return self.read(value)
            except ValueError as error:
                why = f" ({error})" if str(error) else ""
        wanted = f"{self.wanted}, or {self.word}" if self.word else self.wanted
        found = "something else" if self.secret and value else shown(value)
        raise ValueError(f"{wanted} is wanted, {found} stands here{why}")

    def write(self, value: object) -> object:
        """The value as the file has it: `read` takes it back."""
        if value is None or isinstance(value, int):  # bool too
            return self.word if value is None else value
        return duration_text(value) if isinstance(value, float) else str(value)

    def __get_pydantic_core_schema__(
        self, source: object, handler: GetCoreSchemaHandler
    ) -> CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self.write, when_used="json")
        return core_schema.no_info_plain_validator_function(self, serialization=written)

    def __get_pydantic_json_schema__(
        self, schema: CoreSchema, handler: GetJsonSchemaHandler
    ) -> dict[str, Any]:
        return {"anyOf": [self.schema, {"const": self.word}]} if self.word else dict(self.schema)


def shown(value: object) -> str:
    """A value of the file in a message: short, on one line."""
    if value is None or value == "":
        return "nothing"
    if isinstance(value, dict):
        return "a mapping"
    if isinstance(value, list):
        return "a list"
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."


def whole(least: int, most: int, word: str | None = None) -> Reader:
    """A whole number within bounds."""

    def read(value: str | int) -> int:
        if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
            value = int(value)
        if type(value) is not int or not least <= value <= most:
            raise ValueError
        return value

    schema = {"type": "integer", "minimum": least, "maximum": most}
    return Reader(f"a whole number from {least} to {most}", read, schema, word)


def duration(least_s: float, most_s: float = 3650 * 86400.0, word: str | None = None) -> Reader:
    """A time with its unit, such as 250ms, 3s, 5m, 72h or 7d; a bare 0 where zero is meant."""

    def read(value: str | float) -> float:
        if isinstance(value, str):
            match = re.fullmatch(r"(\d+(?:\.\d+)?)(ms|s|m|h|d)?", value, re.ASCII)
            if match is None:
                raise ValueError
            if match[2] is None and float(match[1]) != 0:
                raise ValueError(f"its unit is missing, as in {value}s")
            value = float(match[1]) * _UNIT_S[match[2] or "s"]
        if not least_s <= value <= most_s:
            bound = f"least {least_s:g}" if value < least_s else f"most {most_s:g}"
            raise ValueError(f"at {bound} s")
        return float(value)

    schema = _text(r"^[0-9]+(\.[0-9]+)?(ms|s|m|h|d)$", examples=["3s"])
    if least_s == 0:
        schema |= {"type": ["string", "integer"], "minimum": 0, "maximum": 0}  # the bare 0
    return Reader("a time such as 250ms, 3s, 5m, 72h or 7d", read, schema, word)


def duration_text(seconds: float) -> str:
    """A time as people write it: in the largest unit, up to hours, that leaves two at least."""
    for unit in ("h", "m", "s"):
        if seconds % _UNIT_S[unit] == 0 and seconds >= 2 * _UNIT_S[unit]:
            return f"{seconds / _UNIT_S[unit]:.0f}{unit}"
    return f"{seconds * 1000:.12g}ms" if seconds % 1 else f"{seconds:.0f}s"


def _read_name(value: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,64}", value):
        raise ValueError
    return value


def _read_text(value: str) -> str:
    if not value.isprintable() or value != value.strip():
        raise ValueError
    return value


def _read_flag(value: str | bool) -> bool:
    if value not in ("true", "false", True, False):
        raise ValueError
    return value in ("true", True)


def _read_address(value: str | Address, default_port: int | None = None) -> Address:
    return Address.parse(value, default_port) if isinstance(value, str) else value


def _read_host_address(value: str | Address) -> Address:
    address = _read_address(value)
    if not address.is_ip and not all(0 < len(label) < 64 for label in address.host.split(".")):
        raise ValueError(f"{address.host!r} has a label that is empty or longer than 63")
    if address.port == 0:
        raise ValueError("port 0 cannot be dialled")
    if address.host in ("0.0.0.0", "::"):
        raise ValueError(f"{address.host} is no machine's address")
    return address


def _read_bind(value: str | Address) -> Address:
    if isinstance(value, str) and (bare := re.fullmatch(r"(?:\*?:)?([0-9]+)", value)):
        port = bare[1]
        raise ValueError(f"for all addresses write 0.0.0.0:{port} or [::]:{port}")
    address = _read_address(value)
    if not address.is_ip:
        raise ValueError("an IP address of this machine, not a name")
    return address


def _read_admin_bind(value: str | UnixPath | Address) -> UnixPath | Address:
    if isinstance(value, str) and value.startswith("unix:"):
        value = UnixPath(value.removeprefix("unix:"))
    if not isinstance(value, UnixPath):
        return _read_bind(value)
    if not value.path or len(os.fsencode(value.path)) > _UNIX_PATH_MAX_BYTES:
        raise ValueError(f"the path after unix: has 1 to {_UNIX_PATH_MAX_BYTES} bytes")
    return value


def _read_token_address(value: str | Address) -> Address:
    """Without a port it reads as port 0, which HostSettings fills in."""
    address = _read_address(value, default_port=0)
    if not address.is_ip:
        raise ValueError("a token carries an IP address, never a name")
    return address


def _read_name_server(value: str | Address) -> Address:
    address = _read_address(value, default_port=53)
    if not address.is_ip or address.port == 0:
        raise ValueError("a name server has an IP address and a port")
    return address


def _read_network(value: str | Network) -> Network:
    if not isinstance(value, str):
        return value
    try:
        network = ip_network(value, strict=False)
    except ValueError:
        raise ValueError from None
    try:
        return ip_network(value)
    except ValueError:
        raise ValueError(f"bits are set to the right of the prefix; {network} is meant?") from None


def _read_rate(value: str | Rate) -> Rate:
    if isinstance(value, Rate):
        return value
    match = re.fullmatch(r"(\d{1,9})/([smhd])", value, re.ASCII)
    if match is None or int(match[1]) == 0:
        raise ValueError
    return Rate(count=int(match[1]), per_s=_UNIT_S[match[2]])


def _read_url(value: str) -> str:
    RedisUrl.parse(value)
    return value


def _text(pattern: str, **more: object) -> dict[str, object]:
    return {"type": "string", "pattern": pattern, **more}


NAME = Reader(
    "a name of letters, digits, '.', '_' and '-' (64 at most)", _read_name, _text(r"^[\w.-]{1,64}$")
)
TEXT = Reader("a text on one line", _read_text, {"type": "string", "minLength": 1})
FLAG = Reader("true or false", _read_flag, {"type": "boolean"})
BIND = Reader(
    "an address to listen on, such as 0.0.0.0:3389 or [::]:3389",
    _read_bind,
    {"type": "string", "examples": ["0.0.0.0:3389", "[::]:3389"]},
)
METRICS_BIND = replace(BIND, word="off")
ADMIN_BIND = Reader(
    "unix:PATH, an address such as 127.0.0.1:9390",
    _read_admin_bind,
    {"type": "string", "examples": ["unix:admin.sock", "127.0.0.1:9390"]},
    word="off",
)
HOST_ADDRESS = Reader(
    "an address such as 10.0.0.21:3389, [2001:db8::5]:3389 or rdsh01.example:3389",
    _read_host_address,
    {"type": "string", "examples": ["10.0.0.21:3389", "rdsh01.example:3389"]},
)
TOKEN_ADDRESS = Reader(
    "an IP address with or without a port",
    _read_token_address,
    {"type": "string", "examples": ["192.0.2.21", "192.0.2.21:3389"]},
)
NAME_SERVER = Reader(
    "a name server's IP address with or without a port",
    _read_name_server,
    {"type": "string", "examples": ["10.0.0.2", "127.0.0.1:8600"]},
)
NETWORK = Reader(
    "a network such as 10.0.1.0/24 or 2001:db8::/32",
    _read_network,
    {"type": "string", "examples": ["10.0.1.0/24"]},
)
RATE = Reader(
    "a rate such as 10/s, 600/m or 1000/h", _read_rate, _text(r"^[0-9]{1,9}/[smhd]$"), word="off"
)
URL = Reader(
    "redis://HOST:PORT/DB, redis+sentinel://HOST:PORT,…/NAME or redis+cluster://HOST:PORT,…",
    _read_url,
    _text(r"^rediss?(\+sentinel|\+cluster)?://"),
    secret=True,  # it may hold a password
)
