"""The service: systemd finds nothing wrong with it, and it fits the program."""

from __future__ import annotations

import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from proxy.app import EXIT_CONFIG
from proxy.settings import LimitSettings, TimeoutSettings
from tests.deploy.tools import ROOT, run_tool

UNIT = ROOT / "deploy" / "systemd" / "rdp-proxy.service"
PROGRAM = "/opt/rdp-proxy/bin/rdp-proxy"
EXPOSURE_MAX = 15  # tenths: 0 is no exposure at all, 100 the most


def values(key: str) -> list[str]:
    lines = (line.partition("=") for line in UNIT.read_text().splitlines())
    return [value for name, _, value in lines if name == key]


def verify(unit: Path) -> str:
    """What systemd finds; the program has to be there, so that it looks at the rest."""
    unit.write_text(unit.read_text().replace(PROGRAM, sys.executable))
    done = subprocess.run(
        ["systemd-analyze", "verify", "--man=no", unit], capture_output=True, text=True, timeout=60
    )
    return done.stdout + done.stderr


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    copy = tmp_path / UNIT.name
    copy.write_text(UNIT.read_text())
    return copy


def test_the_service_is_valid(copy: Path) -> None:
    assert verify(copy) == ""


def test_systemd_objects_to_an_unknown_key(copy: Path) -> None:
    copy.write_text(copy.read_text().replace("KillMode=", "KilMode="))
    assert "KilMode" in verify(copy)


def test_the_service_has_little_that_can_be_misused() -> None:
    run_tool("systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", UNIT)


def test_a_service_without_a_sandbox_has_more(tmp_path: Path) -> None:
    bare = tmp_path / UNIT.name
    bare.write_text(UNIT.read_text().replace("PrivateUsers=yes", "").replace("DynamicUser=yes", ""))
    with pytest.raises(AssertionError):
        run_tool(
            "systemd-analyze", "security", "--offline=true", f"--threshold={EXPOSURE_MAX}", bare
        )


@pytest.mark.parametrize("key", ["ExecStart", "ExecReload"])
def test_the_commands_of_the_service_exist(key: str) -> None:
    (line,) = values(key)
    program, command, *_ = shlex.split(line)
    assert program == PROGRAM
    done = subprocess.run(
        [sys.executable, "-m", "proxy", command, "--help"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    options = [word for word in shlex.split(line) if word.startswith("--")]
    assert done.returncode == 0
    assert [option for option in options if option not in done.stdout] == []


def test_a_stop_has_more_time_than_the_program_takes() -> None:
    (stop_s,) = values("TimeoutStopSec")
    assert float(stop_s) > TimeoutSettings().stop_s + 5


def test_the_open_files_reach_for_all_connections_in_one_relay() -> None:
    (files,) = values("LimitNOFILE")
    assert (int(files) - 64) // 2 >= LimitSettings().connections


def test_a_file_that_cannot_be_used_is_no_reason_to_start_again() -> None:
    assert values("RestartPreventExitStatus") == [str(EXIT_CONFIG)]


def test_the_main_process_alone_is_told_to_stop_and_speaks_to_systemd() -> None:
    assert (values("KillMode"), values("NotifyAccess"), values("Type")) == (
        ["mixed"],
        ["main"],
        ["notify"],
    )
