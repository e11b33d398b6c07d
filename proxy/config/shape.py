"""Shape: which sections and keys the file has, found by looking at the settings.

For messages (what was probably meant), for editors (JSON Schema) and for the reference page.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, get_args

from proxy.settings import Section, Settings


def walk(section: type[Section] = Settings, path: str = "") -> Iterator[tuple[str, type[Section]]]:
    """All sections in the order of the file, each with its dotted path."""
    yield path, section
    for key, inner in sections_of(section).items():
        yield from walk(inner, f"{path}.{key}" if path else key)


def sections_of(section: type[Section]) -> dict[str, type[Section]]:
    """The keys of a section that hold sections, alone or in a list, with what they hold."""
    found = {}
    for key, field in zip(keys_of(section), section.model_fields.values(), strict=True):
        for kind in (field.annotation, *get_args(field.annotation)):
            if isinstance(kind, type) and issubclass(kind, Section):
                found[key] = kind
    return found


def keys_of(section: type[Section]) -> list[str]:
    """The keys of a section as the file has them."""
    return [str(field.alias) for field in section.model_fields.values()]


def defaults(section: type[Section]) -> dict[str, Any]:
    """The default of each key that has one, as the file would have it."""
    optional = {name for name, field in section.model_fields.items() if not field.is_required()}
    bare = section.model_construct()
    return bare.model_dump(mode="json", by_alias=True, include=optional)


def schema() -> dict[str, Any]:
    """JSON Schema (draft 2020-12) of the configuration file."""
    made = Settings.model_json_schema(by_alias=True, mode="validation")
    for path, section in walk():
        home = made["$defs"][section.__name__] if path else made
        for key, default in defaults(section).items():
            home["properties"][key]["default"] = default
    head = {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of rdp-proxy",
    }
    return head | {key: value for key, value in made.items() if key != "title"}
