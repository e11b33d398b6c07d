"""The laws of the house that no linter knows. docs/architecture.md says why each one stands."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCES = sorted((ROOT / "proxy").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))

MAX_LINES = 400

VAGUE_NAMES = {"base", "common", "core", "helper", "helpers", "misc", "shared", "util", "utils"}

# The glossary's words have one spelling each; these are other houses' words for them.
FOREIGN_WORDS = {
    "backend": "session host, or server",
    "downstream": "client",
    "frontend": "listener, or front",
    "handshake": "(TLS's word) request, answer",
    "sticky_session": "pin",
    "upstream": "session host, or server",
    "worker": "relay",
}

# Modules that are tested through somebody else: a contract, values, or what joins everything.
TESTED_BY = {
    "proxy/affinity/store.py": "tests/unit/affinity/test_stores.py",
    "proxy/app.py": "tests/integration/test_main_job.py",
    "proxy/front.py": "tests/integration/test_main_job.py",
    "proxy/errors.py": "tests/unit/config/test_loading.py",
    "proxy/relay/watch.py": "tests/unit/relay/test_pump.py",
    "proxy/settings/node.py": "tests/unit/settings/test_settings.py",
    "proxy/settings/pools.py": "tests/unit/settings/test_settings.py",
    "proxy/settings/section.py": "tests/unit/settings/test_settings.py",
    "proxy/views.py": "tests/integration/test_main_job.py",
    "proxy/server/visit.py": "tests/unit/server/test_placement.py",
}


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


def has_logic(path: Path) -> bool:
    """Whether a module defines a function anywhere; declarations alone need no test."""
    nodes = ast.walk(ast.parse(path.read_text()))
    return any(isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) for node in nodes)


def names_given(path: Path) -> Iterator[tuple[int, str]]:
    """Each name that a module gives to something; names that libraries gave are their own."""
    for node in ast.walk(ast.parse(path.read_text())):
        match node:
            case ast.FunctionDef() | ast.AsyncFunctionDef() | ast.ClassDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.alias(asname=str(name)):
                yield node.lineno, name


def plain_words(name: str) -> str:
    """`BackendPool` and `_backend_pool` read `_backend_pool_`; a plural reads as its singular."""
    parts = re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)
    return "_".join(["", *(part.lower().removesuffix("s") for part in parts), ""])


def foreign_words(name: str) -> list[str]:
    return [word for word in FOREIGN_WORDS if f"_{word}_" in plain_words(name)]


def test_no_file_is_longer_than_400_lines() -> None:
    lengths = {relative(path): len(path.read_text().splitlines()) for path in SOURCES + TESTS}
    assert {name: length for name, length in lengths.items() if length > MAX_LINES} == {}


def test_every_module_says_first_what_it_is_and_why() -> None:
    silent = [relative(p) for p in SOURCES if not ast.get_docstring(ast.parse(p.read_text()))]
    assert silent == []


def test_no_module_has_a_name_that_says_nothing() -> None:
    vague = [relative(p) for p in SOURCES if VAGUE_NAMES & {p.stem, p.parent.name}]
    assert vague == []


def test_names_use_the_words_of_the_glossary() -> None:
    foreign = [
        f"{relative(path)}:{line} {name}: say {FOREIGN_WORDS[word]}"
        for path in SOURCES
        for line, name in names_given(path)
        for word in foreign_words(name)
    ]
    assert foreign == []


@pytest.mark.parametrize(
    "name", ["BackendPool", "_backend_pool", "BACKENDS", "StickySession", "httpBackend2"]
)
def test_a_foreign_word_is_found_however_it_is_spelled(name: str) -> None:
    assert len(foreign_words(name)) == 1


def test_every_module_with_logic_has_a_mirror_test() -> None:
    orphans = []
    for path in SOURCES:
        inside = path.relative_to(ROOT / "proxy")
        mirror = ROOT / "tests" / "unit" / inside.parent / f"test_{inside.name}"
        if has_logic(path) and not mirror.exists() and relative(path) not in TESTED_BY:
            orphans.append(f"{relative(path)} wants {relative(mirror)}")
    assert orphans == []


@pytest.mark.parametrize(("module", "test"), TESTED_BY.items())
def test_a_module_tested_by_another_test_has_that_test(module: str, test: str) -> None:
    assert (ROOT / module).exists()
    assert (ROOT / test).exists()


def test_lock_files_pin_by_hash_and_name_no_address() -> None:
    locks = sorted(ROOT.glob("requirements*.lock"))
    assert [lock.name for lock in locks] == [
        "requirements-build.lock",
        "requirements-dev.lock",
        "requirements.lock",
    ]
    for lock in locks:
        text = lock.read_text()
        assert "://" not in text
        assert not re.search(r"^\s*--(?!hash=sha256:)", text, re.MULTILINE)
        pins = re.findall(r"^[a-z0-9][\w.-]*(?:\[[\w,-]+\])?==\S+.*\\$", text, re.MULTILINE)
        requirements = re.findall(r"^[^\s#].*$", text, re.MULTILINE)
        assert pins == requirements


def test_lock_files_agree_with_each_other() -> None:
    def pins(name: str) -> dict[str, str]:
        found = re.findall(
            r"^([a-z0-9][\w.-]*)(?:\[[\w,-]+\])?==(\S+)", (ROOT / name).read_text(), re.MULTILINE
        )
        return dict(found)

    everything = pins("requirements-dev.lock")
    for part in ("requirements.lock", "requirements-build.lock"):
        assert pins(part).items() <= everything.items()


def test_every_make_word_in_the_documents_exists() -> None:
    makefile = (ROOT / "Makefile").read_text()
    targets = set(re.findall(r"^([a-z][a-z-]*):", makefile, re.MULTILINE))
    documents = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    used = {
        word
        for document in documents
        for word in re.findall(
            r"(?:`|^\s*\$?\s*)make ([a-z][a-z-]*)", document.read_text(), re.MULTILINE
        )
    }
    assert "test" in used
    assert used - targets == set()


def test_continuous_integration_runs_what_the_readme_says() -> None:
    assert (ROOT / ".ci" / "run").read_text().rstrip().endswith("exec make test")
