"""The sections, the JSON Schema, and the example file, which shows them all."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from proxy import config
from proxy.config.document import Tree, read
from proxy.config.shape import defaults, keys_of, sections_of, walk
from proxy.settings import HostSettings, ListenerSettings, PoolSettings, Section, Settings

EXAMPLE = Path(__file__).parents[3] / "config.example.yaml"
SECTIONS = [pytest.param(path, section, id=path) for path, section in walk() if path]

# The example shows something else than the default here, for an empty list explains nothing.
SHOWN_OTHERWISE = {"listeners.collections"}


def at(tree: Any, path: str) -> list[dict[str, Any]]:
    """The mappings of a tree at a dotted path, through all lists on the way."""
    found = [tree]
    for key in path.split("."):
        found = [item[key] for item in found if key in item]
        found = [inner for item in found for inner in (item if isinstance(item, list) else [item])]
    return found


def example_with_everything() -> Tree:
    """The example with its commented keys put in force."""
    text = EXAMPLE.read_text(encoding="utf-8")
    text = re.sub(
        r"^( *)# ((  )?[a-z_]+: ?[^ \n]*( *#.*)?|(  )?trusted: .*)$",
        r"\1\2",
        text,
        flags=re.MULTILINE,
    )
    return read(text).tree()


def test_sections_are_found_alone_and_in_lists() -> None:
    assert sections_of(Settings)["listeners"] is ListenerSettings
    assert set(sections_of(PoolSettings)) == {"affinity", "token", "health", "hosts"}
    assert sections_of(HostSettings) == {}


def test_defaults_are_as_the_file_would_have_them() -> None:
    assert defaults(HostSettings) == {
        "weight": 100,
        "max_connections": "off",
        "backup": False,
        "token_addresses": [],
    }
    assert defaults(PoolSettings)["affinity"]["ttl"] == "72h"
    assert defaults(Settings)["timeouts"]["idle"] == "off"


def test_the_example_loads_without_a_warning() -> None:
    assert config.warnings(config.load(EXAMPLE)) == []


@pytest.mark.parametrize(("path", "section"), SECTIONS)
def test_the_example_names_every_key(path: str, section: type[Section]) -> None:
    shown = {key for mapping in at(example_with_everything(), path) for key in mapping}
    assert shown == set(keys_of(section))


@pytest.mark.parametrize(("path", "section"), SECTIONS)
def test_the_example_shows_the_defaults(path: str, section: type[Section]) -> None:
    written = config.load(EXAMPLE).model_dump(mode="json", by_alias=True)
    mappings = at(written, path)
    for key, default in defaults(section).items():
        if key not in sections_of(section) and f"{path}.{key}" not in SHOWN_OTHERWISE:
            assert [mapping[key] for mapping in mappings][:1] in ([default], [])


def test_the_schema_is_json_and_refuses_unknown_keys_everywhere() -> None:
    schema = json.loads(json.dumps(config.schema()))
    objects = [schema, *(item for item in schema["$defs"].values() if item["type"] == "object")]
    assert len(objects) == len(list(walk()))
    assert all(item["additionalProperties"] is False for item in objects)


def test_the_schema_takes_a_bare_zero_only_where_zero_is_meant() -> None:
    timeouts = config.schema()["$defs"]["TimeoutSettings"]["properties"]
    assert timeouts["no_host"]["type"] == ["string", "integer"]
    assert timeouts["no_host"]["maximum"] == 0
    assert timeouts["connect"]["type"] == "string"


@pytest.mark.parametrize(("path", "section"), SECTIONS)
def test_the_schema_explains_each_key_with_its_default(path: str, section: type[Section]) -> None:
    properties = config.schema()["$defs"][section.__name__]["properties"]
    assert list(properties) == keys_of(section)
    for key, default in defaults(section).items():
        assert properties[key]["default"] == default
    for key in keys_of(section):
        assert key in sections_of(section) or properties[key]["description"]
