"""Whom a question names, and which entries of the table speak of him."""

from __future__ import annotations

from ipaddress import ip_address

import pytest

from proxy.control.query import (
    DEFAULT_LIMIT,
    QueryError,
    Who,
    limit,
    no_such,
    only,
    parts_of,
    who,
)

ADDRESS = ip_address("203.0.113.7")


@pytest.mark.parametrize(
    ("key", "parts"),
    [
        ("source:203.0.113.7", ("203.0.113.7", None)),
        ("source:2001:db8:0:1::/64", ("2001:db8:0:1::/64", None)),
        ("user:alice", (None, "alice")),
        ("user:user:odd", (None, "user:odd")),
        ("source:203.0.113.7 user:a b", ("203.0.113.7", "a b")),
        ("token:0123456789abcdef", (None, None)),
    ],
)
def test_a_key_has_a_source_and_a_user(key: str, parts: tuple[str | None, str | None]) -> None:
    assert parts_of(key) == parts


@pytest.mark.parametrize(
    ("whom", "keys"),
    [
        (Who(ADDRESS, None), [0, 1, 2]),
        (Who(ADDRESS, "bob"), [2]),
        (Who(None, "bob"), [2, 3]),
        (Who(ip_address("2001:db8::77"), None), [4]),
        (Who(ip_address("2001:db9::77"), None), []),
        (Who(None, None), []),
    ],
)
def test_an_entry_speaks_of_whom_it_names(whom: Who, keys: list[int]) -> None:
    table = [
        "source:203.0.113.7",
        "source:203.0.113.0/24",
        "source:203.0.113.7 user:bob",
        "user:bob",
        "source:2001:db8::/64",
        "token:0123",
    ]
    assert [table.index(key) for key in table if whom.is_in(key)] == keys


def test_a_client_is_an_address_and_a_user_is_a_name() -> None:
    assert who({}) == Who(None, None)
    assert who({"client": "203.0.113.7", "user": " Bob "}) == Who(ADDRESS, "bob")
    for query in ({"client": "bob"}, {"client": ""}, {"user": " "}):
        with pytest.raises(QueryError, match=r"client is an IP address|user is empty"):
            who(query)


def test_unknown_parameters_are_told() -> None:
    only({"client": "x"}, "client")
    with pytest.raises(QueryError, match="'clinet'; there are: client, host"):
        only({"clinet": "x"}, "client", "host")
    with pytest.raises(QueryError, match="there are: none"):
        only({"client": "x"})


def test_a_limit_is_a_whole_number() -> None:
    assert limit({}) == DEFAULT_LIMIT
    assert limit({"limit": "0"}) == 0
    for text in ("many", "-1", "", "1e3", "²", "1234567890"):
        with pytest.raises(QueryError, match="limit is a whole number"):
            limit({"limit": text})


@pytest.mark.parametrize(
    ("name", "known", "said"),
    [
        ("rdsh1", ["rdsh01", "tool01"], "there is no host 'rdsh1'; like it: rdsh01"),
        ("TOOL01", ["rdsh01", "Tool01"], "like it: Tool01"),
        ("x", ["rdsh01"], "there are: rdsh01"),
        ("x", [], "there are: none"),
        ("x", [f"h{n}" for n in range(500)], "h8, h9 and 490 more"),
    ],
)
def test_a_name_that_is_unknown_is_told_with_those_that_there_are(
    name: str, known: list[str], said: str
) -> None:
    assert str(no_such("host", name, known)).endswith(said)
