"""Document: the text of a configuration file as a tree of nodes that know their places.

YAML is read without guessing: every scalar is a text until a settings field asks for it, so that
`22:22`, `no` and `0100` stay what they look like (YAML 1.1 would make numbers and a boolean of
them). Duplicate keys, tags, merge keys and second documents are refused; an anchor may be used
again, within bounds.

The tree is built from the parser's events by a loop of our own depth: libyaml's composer recurses
on the C stack and dies of a file of many brackets.

Invariants: any text gives a Node or raises DocumentError; never another exception.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from proxy.notation import shown

MAX_BYTES = 8 * 1024 * 1024
MAX_DEPTH = 32  # the settings need 6
MAX_NODES = 500_000  # with what aliases repeat; 20,000 hosts need half of it

_UNPRINTABLE = re.compile(
    "[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]"  # YAML 1.1, section 5.1
)
_BARE_ADDRESS = re.compile(r"(?<![\"'])(\[[0-9a-fA-F:.]*:[0-9a-fA-F:.]*\]|\*):[0-9]+")
_EMPTY = re.compile(r"~|null|Null|NULL|")

Tree = str | list["Tree"] | dict[str, "Tree"]
Loc = tuple[int | str, ...]


class Place(NamedTuple):
    """A position in the file, 1-based."""

    line: int
    column: int


class Fault(NamedTuple):
    """What is wrong, and where."""

    place: Place
    message: str


class DocumentError(Exception):
    """The text is no document at all; `fault` says why."""

    def __init__(self, place: Place, message: str) -> None:
        super().__init__(message)
        self.fault = Fault(place, message)


@dataclass(frozen=True, slots=True)
class Node:
    """A text, list or mapping and where it begins. An empty value is the empty text."""

    place: Place
    value: str | list[Node] | dict[str, Node]
    keys: dict[str, Place] = field(default_factory=dict)  # of a mapping: where each key stands
    size: int = 1  # nodes in this tree

    def child(self, key: int | str) -> Node | None:
        """The value under a key or index, None where there is none."""
        if isinstance(self.value, dict) and isinstance(key, str):
            return self.value.get(key)
        if isinstance(self.value, list) and isinstance(key, int) and key < len(self.value):
            return self.value[key]
        return None

    def items(self, key: str) -> list[Node]:
        """The elements of the list under a key; none where there is no list."""
        child = self.child(key)
        return child.value if child is not None and isinstance(child.value, list) else []

    def text(self, key: str) -> str | None:
        """The text under a key, None where there is none or it is empty."""
        child = self.child(key)
        return child.value or None if child is not None and isinstance(child.value, str) else None

    def tree(self) -> Tree:
        """The same without places."""
        if isinstance(self.value, dict):
            return {key: node.tree() for key, node in self.value.items()}
        if isinstance(self.value, list):
            return [node.tree() for node in self.value]
        return self.value

    def place_of(self, loc: Loc, *, key: bool = False) -> Place:
        """Where the value at `loc` stands (or its key); the nearest parent where it is absent."""
        node = self
        place = self.place
        for step in loc:
            child = node.child(step)
            if child is None:
                return place
            at_key = isinstance(step, str) and (key or child.value == "")
            place = node.keys[str(step)] if at_key else child.place
            node = child
        return place


def read(text: str) -> Node:
    """Build the tree of a document.

    Raises:
        DocumentError: the text is not YAML, or not YAML that a configuration may use.
    """
    strange = _UNPRINTABLE.search(text)
    if strange is not None:
        raise DocumentError(
            _place(text, strange.start()), f"the character {strange[0]!a} is not allowed"
        )
    try:
        return _Builder(text).document()
    except yaml.MarkedYAMLError as error:
        raise _translated(error, text) from None


def decode(data: bytes) -> str:
    """The text of a file; a byte order mark is dropped.

    Raises:
        DocumentError: not UTF-8, or far too long.
    """
    if len(data) > MAX_BYTES:
        raise DocumentError(Place(1, 1), f"the file is longer than {MAX_BYTES // 1024**2} MiB")
    if data[:2] in (b"\xff\xfe", b"\xfe\xff"):
        raise DocumentError(Place(1, 1), "this is UTF-16; save the file as UTF-8")
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        before = data[: error.start].decode("utf-8-sig", "replace")
        byte = data[error.start]
        message = f"byte 0x{byte:02x} is not UTF-8; save the file as UTF-8"
        raise DocumentError(_place(before, len(before)), message) from None


def _place(text: str, index: int) -> Place:
    start = text.rfind("\n", 0, index) + 1
    return Place(text.count("\n", 0, index) + 1, index - start + 1)


def _translated(error: yaml.MarkedYAMLError, text: str) -> DocumentError:
    """libyaml's complaint in an operator's words."""
    problem, context = error.problem or "it cannot be read", error.context or ""
    mark = error.context_mark if "quoted" in context or "flow" in context else error.problem_mark
    assert mark is not None  # libyaml names a place with every problem
    place = Place(mark.line + 1, mark.column + 1)
    line = [*text.splitlines(), ""][mark.line]
    address = _BARE_ADDRESS.search(line)
    if address is not None:
        message = f'an address with brackets or a star needs quotes: "{address[0]}"'
    elif "quoted" in context:
        message = "the quotes that open here are not closed"
    elif "flow" in context:
        message = "the bracket that opens here is not closed, or a comma is missing after it"
    elif problem.startswith("found character") and line[mark.column :].startswith("\t"):
        message = "a tab stands here; YAML is indented with spaces"
    elif problem.startswith("found character"):
        message = f"a text that begins with {line[mark.column : mark.column + 1]!r} needs quotes"
    elif problem.startswith("mapping values"):
        message = "a ':' is not expected here: look at the indentation, or put the text in quotes"
    else:
        message = f"this is not YAML: {problem}" + (f" ({context})" if context else "")
    return DocumentError(place, message)


class _Builder:
    """Turns the parser's events into nodes."""

    def __init__(self, text: str) -> None:
        self._events: Iterator[yaml.Event] = yaml.parse(text, Loader=yaml.CSafeLoader)
        self._anchors: dict[str, Node] = {}
        self._count = 0

    def document(self) -> Node:
        next(self._events)  # stream start
        nothing = isinstance(next(self._events), yaml.StreamEndEvent)
        root = Node(Place(1, 1), "") if nothing else self._node(next(self._events), 0)
        if root.value == "":
            raise DocumentError(root.place, "the file says nothing; begin with config.example.yaml")
        next(self._events)  # document end
        after = next(self._events)
        if not isinstance(after, yaml.StreamEndEvent):
            raise DocumentError(_begin(after), "a second document begins here (---); one is read")
        return root

    def _node(self, event: yaml.Event, depth: int) -> Node:
        place = _begin(event)
        if depth > MAX_DEPTH:
            raise DocumentError(place, f"lists and mappings are nested deeper than {MAX_DEPTH}")
        if isinstance(event, yaml.AliasEvent):
            node = self._anchors.get(str(event.anchor))
            if node is None:
                raise DocumentError(
                    place, f"*{event.anchor} repeats an anchor that is not set above"
                )
            self._weigh(node.size, place)
            return node
        assert isinstance(event, yaml.ScalarEvent | yaml.CollectionStartEvent)
        if event.tag not in (None, "!"):
            raise DocumentError(place, "tags (a word after '!') are not used in a configuration")
        self._weigh(1, place)
        if isinstance(event, yaml.ScalarEvent):
            empty = event.implicit[0] and _EMPTY.fullmatch(event.value)
            node = Node(place, "" if empty else event.value)
        elif isinstance(event, yaml.SequenceStartEvent):
            node = self._list(place, depth)
        else:
            node = self._mapping(place, depth)
        if event.anchor is not None:
            self._anchors[event.anchor] = node
        return node

    def _list(self, place: Place, depth: int) -> Node:
        nodes = []
        while not isinstance(event := next(self._events), yaml.SequenceEndEvent):
            nodes.append(self._node(event, depth + 1))
        return Node(place, nodes, size=1 + sum(node.size for node in nodes))

    def _mapping(self, place: Place, depth: int) -> Node:
        nodes: dict[str, Node] = {}
        keys: dict[str, Place] = {}
        while not isinstance(event := next(self._events), yaml.MappingEndEvent):
            key = self._node(event, depth + 1)
            if not isinstance(key.value, str):
                raise DocumentError(key.place, "a key is a text, not a list or mapping")
            if key.value == "<<":
                raise DocumentError(
                    key.place, "merge keys (<<) are not supported; repeat the lines"
                )
            if key.value in nodes:
                first = keys[key.value].line
                raise DocumentError(
                    key.place, f"{shown(key.value)} stands here again (first in line {first})"
                )
            keys[key.value] = key.place
            nodes[key.value] = self._node(next(self._events), depth + 1)
        return Node(place, nodes, keys, 1 + sum(1 + node.size for node in nodes.values()))

    def _weigh(self, size: int, place: Place) -> None:
        self._count += size
        if self._count > MAX_NODES:
            raise DocumentError(
                place, f"the document has more than {MAX_NODES} values with its aliases"
            )


def _begin(event: yaml.Event) -> Place:
    mark = event.start_mark
    assert mark is not None  # every event of a parser has one
    return Place(mark.line + 1, mark.column + 1)
