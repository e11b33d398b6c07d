"""The programs that these tests need: each has a package, and a missing one is told by name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.interop.programs import PACKAGES, path_of

MAKEFILE = Path(__file__).parents[2] / "Makefile"


def test_a_missing_program_fails_the_test_and_names_its_package(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(pytest.fail.Exception, match=r"xfreerdp.*make packages.*freerdp2-x11"):
        path_of("xfreerdp")


def test_make_packages_installs_what_these_tests_need() -> None:
    found = re.search(r"^INTEROP_PACKAGES := (.*)$", MAKEFILE.read_text(), re.MULTILINE)
    assert found is not None
    assert sorted(found[1].split()) == sorted(set(PACKAGES.values()))
