"""Who takes part: each with its configuration, started fresh and killed afterwards.

All listen at the same address and balance over the same simulated hosts; one thread or process of
each carries the bytes. `direct` is nobody: the load dials the hosts itself.
"""

from __future__ import annotations

import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from string import Template

from bench import processes

PORT = 3389
PROXY = "127.0.0.1"
HOSTS = tuple(f"127.0.1.{number}" for number in range(1, 5))

_CONFIGS = Path(__file__).parent / "configs"
_NGINX_MODULES = "/usr/lib/nginx/modules"
_START_S = 15.0
_SPARE_FILES = 400  # pipes, channels, logs, listening sockets, spare ones
# A Connection Request; HAProxy's recipe waits for its cookie.
_REQUEST = bytes.fromhex("0300002b26e00000000000") + (
    b"Cookie: mstshash=ready\r\n" + bytes.fromhex("0100080003000000")
)

_SPLICE = "    option splice-auto"
# Looks at its chance to splice again only when the timer of `timeout connect` has run out.
_SPLICE_BEGINS_S = 3.5
# Both directions from the first byte on, through pipes of 1 MB.
_ALL_SPLICE = "    option splice-request\n    option splice-response"
_LARGE_PIPES = "    tune.pipesize 1048576"
_RDP = """\
    tcp-request inspect-delay 5s
    tcp-request content accept if RDP_COOKIE
    persist rdp-cookie
    stick-table type ip size 1m expire 72h
    stick on src"""


class StartError(Exception):
    """A contender did not answer in time; the message has the end of its log."""


@dataclass(frozen=True)
class Contender:
    """One column of the table. `kind` is its name without a version."""

    name: str
    kind: str
    template: str = ""
    values: Mapping[str, str] = field(default_factory=dict)
    host_line: str = ""
    command: tuple[str, ...] = ()
    bulk_begins_s: float = 0.0  # so long into a transfer it changes its way of carrying
    checkout: Path | None = None  # where its sources are, if not here

    @property
    def targets(self) -> tuple[str, ...]:
        """Where clients dial."""
        return (PROXY,) if self.command else HOSTS


@dataclass
class Running:
    """A contender while it runs. `pids` is empty for `direct`."""

    contender: Contender
    pids: list[int]
    log: Path


def contenders(more_haproxys: list[str], before: Path | None = None) -> list[Contender]:
    """All of them, in the order of the table's columns; `before`: another checkout of rdp-proxy."""
    found = [Contender("direct", "direct")]
    for path in [str(shutil.which("haproxy")), *more_haproxys]:
        found += _haproxy(path, "" if len(found) == 1 else f" {_haproxy_version(path)}")
    nginx = ("nginx", "-e", "$directory/nginx.log", "-c", "$directory/config")
    found.append(
        Contender(
            "nginx",
            "nginx",
            "nginx.conf",
            {"modules": _NGINX_MODULES},
            f"        server $host:{PORT};",
            nginx,
        )
    )
    if before is not None:
        found.append(_rdp_proxy("rdp-proxy-before", "info", before))
    found.append(_rdp_proxy("rdp-proxy", "info"))
    found.append(_rdp_proxy("rdp-proxy-quiet", "warning"))
    return found


def _haproxy(path: str, version: str) -> list[Contender]:
    kinds = {
        "haproxy": {"recipe": "", "tuning": ""},
        "haproxy splice": {"recipe": _SPLICE, "tuning": ""},
        "haproxy tuned": {"recipe": _ALL_SPLICE, "tuning": _LARGE_PIPES},
        "haproxy rdp": {"recipe": _RDP, "tuning": ""},
    }
    return [
        Contender(
            name.replace("haproxy", f"haproxy{version}"),
            name,
            "haproxy.cfg",
            values,
            f"    server $name $host:{PORT}",
            (path, "-db", "-f", "$directory/config"),
            _SPLICE_BEGINS_S if values["recipe"] == _SPLICE else 0.0,
        )
        for name, values in kinds.items()
    ]


def _rdp_proxy(name: str, level: str, checkout: Path | None = None) -> Contender:
    run = (sys.executable, "-m", "proxy", "run", "--config", "$directory/config")
    line = f'      - {{name: $name, address: "$host:{PORT}"}}'
    values = {"level": level}
    return Contender(name, name, "rdp-proxy.yaml", values, line, run, checkout=checkout)


def _haproxy_version(path: str) -> str:
    said = subprocess.run([path, "-v"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"version (\d+\.\d+)", said)
    return found[1] if found else path


def versions(found: list[Contender]) -> dict[str, str]:
    """The first line that each program says about its version."""
    said = {}
    for contender in found:
        if contender.command and contender.kind in {"haproxy", "nginx"}:
            words = [contender.command[0], "-v"]
            done = subprocess.run(words, capture_output=True, text=True, check=True)
            said[contender.name] = (done.stdout or done.stderr).splitlines()[0]
    return said


def connections_max(files: int) -> int:
    """How many connections a process with so many open files may carry."""
    return (files - _SPARE_FILES) // 2


@contextmanager
def running(contender: Contender, directory: Path, files: int) -> Iterator[Running]:
    """The contender as a process that answers, in an empty directory of its own."""
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir()
    log = directory / "log"
    if not contender.command:
        yield Running(contender, [], log)
        return
    (directory / "config").write_text(configuration(contender, directory, files))
    with log.open("wb") as sink:
        child = subprocess.Popen(
            [Template(word).substitute(directory=directory) for word in contender.command],
            stdin=subprocess.DEVNULL,
            stdout=sink,
            stderr=sink,
            cwd=contender.checkout,
            env=os.environ | {"STATE_DIRECTORY": str(directory)},
            start_new_session=True,
        )
    try:
        _until_it_answers(child, log)
        yield Running(contender, processes.family(child.pid), log)
    finally:
        _kill(child)


def configuration(contender: Contender, directory: Path, files: int) -> str:
    """What its program is started with; `files` may be open in each of its processes."""
    lines = (
        Template(contender.host_line).substitute(name=f"host{number}", host=host)
        for number, host in enumerate(HOSTS, 1)
    )
    return Template((_CONFIGS / contender.template).read_text()).substitute(
        contender.values,
        directory=directory,
        files=files,
        descriptors=files - 100,
        connections=connections_max(files),
        hosts="\n".join(lines),
    )


def _until_it_answers(child: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while child.poll() is None and time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection((PROXY, PORT), timeout=1) as sock:
            sock.settimeout(5)
            sock.sendall(_REQUEST)
            if sock.recv(1) == b"\x03":
                return
        time.sleep(0.02)
    raise StartError(f"it does not answer: {log.read_text()[-500:]}")


def _kill(child: subprocess.Popen[bytes]) -> None:
    """End it and all that it has started. They are ours to bury: we are their process 1."""
    pids = processes.family(child.pid)
    for pid in pids:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    child.wait()
    for pid in pids:
        with suppress(ChildProcessError):
            os.waitpid(pid, 0)
