"""The reference page is in step with the settings."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from proxy.config import reference
from proxy.config.shape import keys_of, walk

PAGE = Path(__file__).parents[3] / "docs" / "reference" / "configuration.md"


def test_the_page_in_the_repository_is_the_one_that_the_settings_make() -> None:
    assert PAGE.read_text(encoding="utf-8") == reference.markdown()


def test_every_key_has_a_row_with_a_meaning() -> None:
    page = reference.markdown()
    for path, section in walk():
        if not path:
            continue
        table = page.partition(f"## `{path}`\n")[2].partition("\n## ")[0]
        rows = [row.split(" | ") for row in table.splitlines() if row.startswith("| `")]
        assert [row[0] for row in rows] == [f"| `{key}`" for key in keys_of(section)]
        assert all(len(row[2]) > len("meaning |") for row in rows)


def test_the_module_prints_the_page(capsys: pytest.CaptureFixture[str]) -> None:
    runpy.run_path(reference.__file__, run_name="__main__")
    assert capsys.readouterr().out == reference.markdown()
