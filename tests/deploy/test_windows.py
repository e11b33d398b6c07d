"""The agent for Windows is PowerShell that can be read. There is no Windows here to run it on."""

from __future__ import annotations

import tree_sitter_powershell
from tree_sitter import Language, Parser

from tests.deploy.tools import ROOT

AGENT = ROOT / "deploy" / "windows" / "agent.ps1"
POWERSHELL = Parser(Language(tree_sitter_powershell.language()))


def has_error(script: bytes) -> bool:
    return POWERSHELL.parse(script).root_node.has_error


def test_the_agent_is_powershell() -> None:
    assert not has_error(AGENT.read_bytes())


def test_a_brace_less_would_be_told() -> None:
    head, brace, tail = AGENT.read_bytes().rpartition(b"}")
    assert brace
    assert has_error(head + tail)
