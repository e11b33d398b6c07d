"""Every input that was ever a finding, or that broke another implementation, holds for ever.

Hand-made ones among them: a CR as the last byte (read past the end elsewhere), a PROXY v2 header
cut inside a TLV, a wrong CRC32C, thousands of empty lines, lone surrogates, foreign digits.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.fuzz.fuzz_wire import REGRESSIONS
from tests.fuzz.oracles import ORACLES

FILES = sorted(REGRESSIONS.glob("*/*.hex"))


@pytest.mark.parametrize("file", FILES, ids=lambda file: f"{file.parent.name}-{file.stem}")
def test_an_old_finding_stays_fixed(file: Path) -> None:
    ORACLES[file.parent.name](bytes.fromhex(file.read_text(encoding="ascii")))


def test_every_oracle_has_inputs_to_replay() -> None:
    assert {file.parent.name for file in FILES} == set(ORACLES)
