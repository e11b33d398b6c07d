"""The documents say what the code says: values, files, configurations and links."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path

import pytest
import yaml

from proxy import cli, config
from proxy.affinity.store import StoreEvent
from proxy.errors import Cause, Side, WireError
from proxy.routing.model import Reason, RepinCause, TokenFate
from proxy.routing.signs import Sign
from proxy.server.record import Phase
from proxy.wire.x224 import parse_connection_request
from tests.vectors import VECTORS

ROOT = Path(__file__).parents[2]
GENERATED = ROOT / "docs" / "reference"
DOCUMENTS = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.parent != GENERATED
)
OPERATIONS = ROOT / "docs" / "operations.md"
ARCHITECTURE = ROOT / "docs" / "architecture.md"
PROTOCOL = ROOT / "docs" / "protocol.md"
LINE_MAX = 112  # tables excepted


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def fenced(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)


def code_words(path: Path) -> set[str]:
    """What stands between single backticks."""
    return set(re.findall(r"`([^`\n]+)`", path.read_text()))


def rows(path: Path) -> set[str]:
    """The code words in the first cells of a document's tables."""
    first_cells = re.findall(r"^\|([^|\n]+)\|", path.read_text(), re.MULTILINE)
    return {word for cell in first_cells for word in re.findall(r"`([^`]+)`", cell)}


@pytest.mark.parametrize("block", fenced(ROOT / "README.md", "yaml"))
def test_a_configuration_in_the_readme_passes_check(block: str) -> None:
    assert config.warnings(config.loads(block, "README.md")) == []


def test_the_readme_has_a_configuration_to_start_from() -> None:
    assert fenced(ROOT / "README.md", "yaml")


@pytest.mark.parametrize("words", [Cause, Reason, TokenFate, Phase, Sign])
def test_operations_has_a_row_for_every_value(words: type[StrEnum]) -> None:
    assert {str(word) for word in words} - rows(OPERATIONS) == set()


@pytest.mark.parametrize("words", [Side, RepinCause, StoreEvent])
def test_operations_explains_every_value(words: type[StrEnum]) -> None:
    assert {str(word) for word in words} - code_words(OPERATIONS) == set()


def test_operations_says_what_to_do_about_every_alert() -> None:
    rules = yaml.safe_load((ROOT / "deploy" / "prometheus" / "rules.yml").read_text())
    alerts = {rule["alert"] for group in rules["groups"] for rule in group["rules"]}
    assert alerts - rows(OPERATIONS) == set()


def test_operations_has_a_row_for_every_event_of_the_log() -> None:
    levels = r"\blog\.(?:info|warning|error|critical|exception|log)"
    logged = re.compile(levels + r'\(\s*(?:level,\s*)?"([a-z_]+)"')
    sources = list((ROOT / "proxy").rglob("*.py"))
    events = {event for path in sources for event in logged.findall(path.read_text())}
    told = re.compile(r'\b_tell\([\w.]+, "([a-z_]+)"')  # of connections
    events |= {event for path in sources for event in told.findall(path.read_text())}
    said = re.compile(r'\bsay\("([a-z_]+)"')  # by the parent
    parents = [text for text in map(Path.read_text, sources) if "from proxy.notify import" in text]
    events |= {event for text in parents for event in said.findall(text)}
    assert {"upgraded", "process_ended"} <= events
    assert {"connection_placed", "connection_ended", "process_ended"} <= events
    assert events - rows(OPERATIONS) == set()


def test_architecture_names_every_module() -> None:
    text = ARCHITECTURE.read_text()
    modules = [
        path.relative_to(ROOT / "proxy")
        for path in sorted((ROOT / "proxy").rglob("*.py"))
        if path.name != "__init__.py"
    ]
    lost = [str(module) for module in modules if not re.search(rf"\b{module.stem}\b", text)]
    assert lost == []


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_every_file_that_a_document_names_exists(document: Path) -> None:
    text = document.read_text()
    links = {
        link.partition("#")[0]
        for link in re.findall(r"\]\(([^)\s]+)\)", text)
        if "://" not in link and not link.startswith("#")
    }
    paths = re.findall(r"`((?:proxy|tests|docs|deploy|scripts)/[\w./-]*\w(?:\.\w+)?/?)`", text)
    lost = [link for link in links if not (document.parent / link).exists()]
    lost += [path for path in paths if not (ROOT / path).exists()]
    assert lost == []


@pytest.mark.parametrize("document", [ARCHITECTURE, ROOT / "CONTRIBUTING.md"], ids=relative)
def test_every_name_in_call_form_exists_in_the_sources(document: Path) -> None:
    sources = "\n".join(path.read_text() for path in (ROOT / "proxy").rglob("*.py"))
    calls = set(re.findall(r"`(?:\w+\.)*(\w+)\(\)`", document.read_text()))
    system = {"splice", "recv", "send", "exec"}
    lost = [name for name in calls - system if not re.search(rf"\b(def|class) {name}\b", sources)]
    assert lost == []


def test_protocol_names_only_vectors_that_exist() -> None:
    lists = re.findall(r"vectors?\s((?:`\w+`(?:,\s|\sand\s)?)+)", PROTOCOL.read_text())
    named = {name for names in lists for name in re.findall(r"`(\w+)`", names)}
    assert "xfreerdp_li_wraps" in named
    assert named - {vector.name for vector in VECTORS} == set()


def refused_vectors() -> list[tuple[str, str]]:
    """What docs/protocol.md calls refused: a row's cause, and the last vectors that it names."""
    row = r"^\|[^|]*\|[^|]*\| `(\w+)` \|[^|]*vectors? ((?:`\w+`(?:, )?)+) \|$"
    found = re.findall(row, PROTOCOL.read_text(), re.MULTILINE)
    return [(cause, name) for cause, names in found for name in re.findall(r"`(\w+)`", names)]


@pytest.mark.parametrize(("cause", "name"), refused_vectors())
def test_a_vector_that_protocol_calls_refused_is_refused(cause: str, name: str) -> None:
    (vector,) = (vector for vector in VECTORS if vector.name == name)
    with pytest.raises(WireError) as caught:
        parse_connection_request(vector.data)
    assert caught.value.cause == cause


def commands_shown() -> Iterator[tuple[str, str]]:
    """Document and command line of each `rdp-proxy COMMAND …` that stands there as code."""
    for document in DOCUMENTS:
        text = document.read_text()
        spans = re.findall(r"`rdp-proxy ([a-z][^`\n]*)`", text)
        lines = re.findall(r"^ {4}(?:\.venv/bin/)?rdp-proxy ([a-z][^#\n]*)", text, re.MULTILINE)
        yield from ((relative(document), line) for line in (*spans, *lines))


def test_every_command_that_a_document_shows_exists() -> None:
    parser = cli._parser(["demo"])
    (commands,) = (act for act in parser._actions if isinstance(act, argparse._SubParsersAction))
    shown = list(commands_shown())
    assert "run" in {line.split()[0] for _, line in shown}
    for document, line in shown:
        name, *words = line.split()
        assert name in commands.choices, f"{document}: rdp-proxy {line}"
        command = commands.choices[name]
        for acts in command._actions:
            if isinstance(acts, argparse._SubParsersAction) and words:
                assert words[0] in acts.choices, f"{document}: rdp-proxy {line}"
                command = acts.choices[words[0]]
        known = command._option_string_actions
        options = set(re.findall(r"--[a-z-]+", " ".join(words)))
        assert options <= set(known), f"{document}: rdp-proxy {line}"


@pytest.mark.parametrize("document", DOCUMENTS, ids=relative)
def test_prose_wraps_where_an_editor_shows_it(document: Path) -> None:
    prose = [line for line in document.read_text().splitlines() if not line.startswith("|")]
    assert [line for line in prose if len(line) > LINE_MAX] == []
