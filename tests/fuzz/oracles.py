"""What must hold for the parsers of `proxy.wire` on any input, as functions that assert it.

The fuzzer, the property tests and the replay of old findings share these oracles. For a parser
the whole contract is one sentence about the prefixes of a stream: the answer is `Incomplete`
until it is final, it never asks for a byte behind the message, and a final answer (a value or a
cause) never changes again, however many bytes follow.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol, TypeVar

from proxy.errors import WireError
from proxy.wire.incomplete import Incomplete
from proxy.wire.proxy_protocol import parse_proxy_header
from proxy.wire.tokens import TOKEN_FORMATS, encode_msts, read_token
from proxy.wire.x224 import parse_connection_confirm, parse_connection_request

_T = TypeVar("_T")


class _Message(Protocol):
    @property
    def raw(self) -> bytes: ...


def _answer(parse: Callable[[bytes], _T], data: bytes) -> _T | str:
    try:
        return parse(data)
    except WireError as error:
        return str(error.cause)


def check_answers(parse: Callable[[bytes], object], data: bytes) -> None:
    """Hold the contract of a parser for a stream that begins with `data`."""
    final: object = None
    least_bytes = 0
    for seen in range(len(data) + 1):
        answer = _answer(parse, data[:seen])
        if final is not None:
            assert answer == final, f"{answer} after {seen} bytes, but {final} before"
        elif isinstance(answer, Incomplete):
            assert answer.missing > 0
            least_bytes = max(least_bytes, seen + answer.missing)
        else:
            final = answer
            if not isinstance(answer, str):
                assert seen >= least_bytes, f"asked for {least_bytes} bytes, was whole at {seen}"


def check_message(parse: Callable[[bytes], _Message | Incomplete], data: bytes) -> None:
    """Hold the contract, and that the value keeps exactly its own bytes."""
    check_answers(parse, data)
    answer = _answer(parse, data)
    if not isinstance(answer, str | Incomplete):
        assert data.startswith(answer.raw)
        assert parse(answer.raw) == answer
        assert isinstance(_answer(parse, answer.raw[:-1]), Incomplete)


def check_token(line: bytes) -> None:
    """A token keeps its line, is fit for logs, and an address that it names can be encoded."""
    token = read_token(line)
    assert token.line == line
    assert token.format in TOKEN_FORMATS
    assert token.text.isascii()
    assert token.text.isprintable()
    if token.address is not None:
        assert read_token(encode_msts(token.address)).address == token.address


def check_request(data: bytes) -> None:
    """Hold the contract for a request, and that its fields can be shown."""
    check_message(parse_connection_request, data)
    request = _answer(parse_connection_request, data)
    if not isinstance(request, str | Incomplete):
        assert request.user is None or request.user.encode()
        if request.routing_token is not None:
            assert b"\r\n" not in request.routing_token.line
            check_token(request.routing_token.line)


ORACLES: dict[str, Callable[[bytes], None]] = {
    "connection_request": check_request,
    "connection_confirm": lambda data: check_message(parse_connection_confirm, data),
    "proxy_header": lambda data: check_message(parse_proxy_header, data),
    "token": check_token,
}
"""Each raises AssertionError, or whatever a parser let out, where the contract is broken."""
