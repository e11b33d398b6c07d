"""The tree of a file: texts as they stand, places, and the bounds of what is read."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.config.document import (
    MAX_BYTES,
    MAX_DEPTH,
    MAX_NODES,
    DocumentError,
    Fault,
    Place,
    decode,
    read,
)


def refusal(text: str) -> Fault:
    with pytest.raises(DocumentError) as caught:
        read(text)
    return caught.value.fault


def test_every_scalar_is_the_text_that_stands_there() -> None:
    text = "a: 22:22\nb: no\nc: 0100\nd: 1e3\ne: 2001-01-01\nf: '~'\ng: .inf\nh: =\n"
    assert read(text).tree() == {
        "a": "22:22",
        "b": "no",
        "c": "0100",
        "d": "1e3",
        "e": "2001-01-01",
        "f": "~",
        "g": ".inf",
        "h": "=",
    }


@pytest.mark.parametrize("value", ["", "~", "null", "Null", "NULL", "''"])
def test_an_empty_value_is_the_empty_text(value: str) -> None:
    assert read(f"a: {value}\n").tree() == {"a": ""}


def test_each_value_and_key_knows_its_place() -> None:
    root = read("pools:\n  - name: desktops\n    hosts: [a, b]\n    token:\n")
    assert root.place_of(("pools", 0, "name")) == Place(2, 11)
    assert root.place_of(("pools", 0, "name"), key=True) == Place(2, 5)
    assert root.place_of(("pools", 0, "hosts", 1)) == Place(3, 16)


def test_an_empty_value_is_placed_at_its_key() -> None:
    assert read("a:\n  token:\n").place_of(("a", "token")) == Place(2, 3)


def test_what_is_absent_is_placed_at_the_nearest_parent() -> None:
    root = read("pools:\n  - name: desktops\n")
    assert root.place_of(("pools", 0, "hosts", 5, "name")) == Place(2, 5)
    assert root.place_of(("pools", 7)) == Place(2, 3)
    assert root.place_of(("nothing",)) == Place(1, 1)


def test_columns_count_characters_not_bytes() -> None:
    assert read('{"名前": 1, b: 2}').place_of(("b",), key=True) == Place(1, 11)


def test_an_anchor_may_be_used_again() -> None:
    root = read("a: &x {k: v}\nb: *x\nc: [*x, *x]\n")
    assert root.tree() == {"a": {"k": "v"}, "b": {"k": "v"}, "c": [{"k": "v"}, {"k": "v"}]}
    assert root.place_of(("c", 1, "k")) == Place(1, 11)


def test_an_anchor_cannot_repeat_itself() -> None:
    assert refusal("a: &x [*x]\n") == Fault(
        Place(1, 8), "*x repeats an anchor that is not set above"
    )


def test_aliases_of_aliases_end_at_the_bound() -> None:
    lines = ["a: &a [x, x, x, x, x, x, x, x, x, x]"]
    for name, before in zip("bcdefghi", "abcdefgh", strict=True):
        lines.append(f"{name}: &{name} [{', '.join([f'*{before}'] * 10)}]")
    assert f"more than {MAX_NODES}" in refusal("\n".join(lines)).message


@pytest.mark.parametrize("bracket", ["[", "[\n", "{", "- ", "? "])
def test_any_depth_of_nesting_ends_at_the_bound(bracket: str) -> None:
    assert f"deeper than {MAX_DEPTH}" in refusal(bracket * 100_000).message


def test_the_bound_of_nesting_itself_is_read() -> None:
    assert read("[" * MAX_DEPTH + "]" * MAX_DEPTH).size == MAX_DEPTH
    assert read("[" * MAX_DEPTH + "x" + "]" * MAX_DEPTH).size == MAX_DEPTH + 1


@pytest.mark.parametrize("text", ["a: \ud800", "a: \x00", "\x07", "a: \ufffe"])
def test_characters_that_nobody_sees_are_refused(text: str) -> None:
    assert "is not allowed" in refusal(text).message


def test_accessors_pass_over_what_has_another_shape() -> None:
    root = read("list: [a]\ntext: b\nmap: {c: d}\nempty:\n")
    assert [node.value for node in root.items("list")] == ["a"]
    assert root.items("text") == root.items("map") == root.items("absent") == []
    assert root.text("text") == "b"
    assert root.text("list") is root.text("empty") is root.text("absent") is None
    assert root.child(0) is None


def test_a_byte_order_mark_is_dropped() -> None:
    assert decode(b"\xef\xbb\xbflog: {}") == "log: {}"


def test_bytes_that_are_not_utf_8_are_placed() -> None:
    with pytest.raises(DocumentError) as caught:
        decode("# ü\n# ü".encode() + b"\xfc")
    assert caught.value.fault.place == Place(2, 4)


def test_a_file_of_many_megabytes_is_not_read() -> None:
    assert len(decode(b"#" * MAX_BYTES)) == MAX_BYTES
    with pytest.raises(DocumentError, match="longer than 8 MiB"):
        decode(b"#" * (MAX_BYTES + 1))


YAML_SIGNS = st.text(st.sampled_from("ab0:-?,[]{}&*#!|>'\"%@`~\\ \t\r\n\x85\u2028é<="), max_size=40)


def fault_of(text: str) -> Fault | None:
    try:
        read(text)
    except DocumentError as error:
        return error.fault
    return None


@given(st.one_of(st.text(), YAML_SIGNS))
def test_any_text_is_a_tree_or_is_refused_at_a_place_of_it(text: str) -> None:
    fault = fault_of(text)
    if fault is not None:
        assert 1 <= fault.place.line <= len(text) + 1
        assert 1 <= fault.place.column <= len(text) + 1
        assert fault.message.isprintable()


@given(st.binary())
def test_bytes_are_refused_exactly_where_they_are_not_utf_8(data: bytes) -> None:
    try:
        text = decode(data)
    except DocumentError:
        with pytest.raises(UnicodeDecodeError):
            data.decode("utf-8")
    else:
        assert text == data.decode("utf-8-sig")
