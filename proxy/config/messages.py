"""Messages: what pydantic found wrong, in the words of an operator who never heard of it.

Values that are written wrongly already come with a sentence of their own (`proxy.notation`); here
are the few faults that concern keys, sections and lists, with the key that was probably meant.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any

from pydantic_core import ErrorDetails

from proxy.config.document import Fault, Loc, Node
from proxy.config.shape import keys_of, walk
from proxy.notation import shown


def faults(errors: Iterable[ErrorDetails], root: Node) -> Iterator[Fault]:
    """Say pydantic's errors in plain words, each at its place in the file."""
    for error in errors:
        # A list counts as too short, too, where its only elements are wrong themselves.
        if error["type"] != "too_short" or not error["input"]:
            yield _fault(error, root)


def _fault(error: ErrorDetails, root: Node) -> Fault:
    kind = error["type"]
    context: Mapping[str, Any] = error.get("ctx", {})
    loc: Loc = error["loc"]
    if kind == "extra_forbidden":
        return Fault(root.place_of(loc, key=True), _unknown_key(loc))
    if kind == "missing":
        return Fault(root.place_of(loc), f"`{_name(loc)}` is missing{_inside(loc[:-1])}")
    if kind == "fault":
        loc = (*loc, context["key"])
        return Fault(root.place_of(loc), f"{_name(loc)}: {context['message']}")
    at_key = loc[-1:] == ("[key]",)
    if at_key:
        loc = loc[:-1]
    match kind:
        case "value_error":
            message = str(context["error"])
        case "enum":
            options = [option.strip("'") for option in _options(context["expected"])]
            meant = did_you_mean(error["input"], options)
            message = f"{_either(options)} is wanted, {shown(error['input'])} stands here{meant}"
        case "too_short":
            message = "at least one entry is wanted"
        case "tuple_type":
            message = f"a list (lines that begin with '-') is wanted, {_found(error)} stands here"
        case "model_type" | "mapping_type" | "dict_type" | "model_attributes_type":
            message = f"a mapping (lines of `key: value`) is wanted, {_found(error)} stands here"
        case _:  # a kind that no field of today can give
            message = error["msg"]
    return Fault(root.place_of(loc, key=at_key), f"{_name(loc)}: {message}" if loc else message)


def did_you_mean(word: object, options: Iterable[str]) -> str:
    """`; did you mean 'x'?`, or nothing where no option is near."""
    near = get_close_matches(word.lower(), list(options), n=1) if isinstance(word, str) else []
    return f"; did you mean {near[0]!r}?" if near else ""


def _unknown_key(loc: Loc) -> str:
    key = str(loc[-1])
    sections = dict(walk())
    here = ".".join(step for step in loc[:-1] if isinstance(step, str))
    homes = [f"`{path}`" for path, section in sections.items() if key in keys_of(section)]
    if len(homes) == 1:
        meant = f"; its place is {homes[0] if homes != ['``'] else 'the top level'}"
    else:
        meant = did_you_mean(key, keys_of(sections[here]))
    return f"unknown key {shown(key)}{_inside(loc[:-1])}{meant}"


def _name(loc: Loc) -> str:
    """The last key of a place, with the index behind it where it is an element of a list."""
    last = loc[-1]
    return f"{_name(loc[:-1])}[{last}]" if isinstance(last, int) else last or "''"


def _inside(loc: Loc) -> str:
    return f" in {_name(loc)}" if loc else ""


def _options(expected: str) -> list[str]:
    """Split pydantic's `'a', 'b' or 'c'`."""
    return expected.replace(" or ", ", ").split(", ")


def _either(options: list[str]) -> str:
    return f"{', '.join(options[:-1])} or {options[-1]}"


def _found(error: ErrorDetails) -> str:
    return shown(error["input"])
