"""The image: linted, and built from exactly what the lock files pin."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.deploy.tools import ROOT, run_tool

DOCKERFILE = (ROOT / "Dockerfile").read_text()


def test_the_dockerfile_is_well_kept() -> None:
    run_tool("hadolint", ROOT / "Dockerfile")


def test_hadolint_objects_to_a_bad_dockerfile(tmp_path: Path) -> None:
    bad = tmp_path / "Dockerfile"
    bad.write_text("FROM debian:latest\nCMD run me\n")
    with pytest.raises(AssertionError, match="DL3007"):
        run_tool("hadolint", bad)


def test_the_build_may_read_what_the_dockerfile_copies_and_nothing_else() -> None:
    copied = {
        name
        for line in DOCKERFILE.splitlines()
        if line.startswith("COPY ") and "--from" not in line
        for name in line.split()[1:-1]
    }
    ignored = (ROOT / ".dockerignore").read_text().splitlines()
    assert {line[1:] for line in ignored if line.startswith("!")} == copied


def test_the_last_stage_runs_without_privileges() -> None:
    last = DOCKERFILE.rpartition("\nFROM ")[2]
    assert "\nUSER 10001:10001\n" in last
    assert "pip" not in last
