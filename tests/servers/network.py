"""A network of machines, each in a network namespace of its own, that can be cut.

A process that was stopped has a kernel that answers for it, and one that was killed refuses. A
cable that is pulled is silence, and takes a machine of its own: `Network` bridges them, and `cut`
sets the link of one down. It must run in a network namespace itself (`enter_own_network`), so that
nothing of it is seen outside, and nothing is left of it.
"""

from __future__ import annotations

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

_SUBNET = "10.99.0."
_ENTERED = "RDP_PROXY_OWN_NETWORK"
_OWN_NETWORK = Path(__file__).parents[2] / "scripts" / "own_network"


class Machine:
    """One machine of a network. Made by `Network.machine`.

    Attributes:
        host: its address.
        prefix: begins a command that is to run on it.
    """

    def __init__(self, number: int) -> None:
        self.host = f"{_SUBNET}{number + 10}"
        self._link = f"machine{number}"
        # A namespace lives as long as a process in it.
        self._process = subprocess.Popen(
            ["setpriv", "--pdeathsig", "KILL", "unshare", "--net", "cat"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(b"there\n")
        self._process.stdin.flush()
        self._process.stdout.readline()
        self.prefix = ("nsenter", "--target", str(self._process.pid), "--net", "--")
        near, far = f"link add {self._link} type veth peer name eth0 netns", self._process.pid
        _ip(f"{near} {far}")
        _ip(f"link set {self._link} master bridge0 up")
        for words in ("link set lo up", f"addr add {self.host}/24 dev eth0", "link set eth0 up"):
            _ip(words, self.prefix)

    def join(self, other: Machine, near: Sequence[str], far: Sequence[str]) -> None:
        """A cable to another machine, with the addresses of both ends."""
        pids = self._process.pid, other._process.pid
        _ip(f"link add name cable netns {pids[0]} type veth peer name cable netns {pids[1]}")
        for machine, addresses in ((self, near), (other, far)):
            machine.ip("link set cable up")
            for address in addresses:
                machine.ip(f"addr add {address} dev cable" + " nodad" * (":" in address))

    def ip(self, words: str) -> None:
        """A command of ip(8)."""
        _ip(words, self.prefix)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Sockets that this thread makes inside the block are the machine's."""
        here, there = (
            os.open(f"/proc/{process}/ns/net", os.O_RDONLY)
            for process in ("thread-self", self._process.pid)
        )
        _set_namespace(there)
        try:
            yield
        finally:
            _set_namespace(here)
            os.close(here)
            os.close(there)

    def cut(self) -> None:
        """Pull the cable."""
        _ip(f"link set {self._link} down")

    def mend(self) -> None:
        """Put it in again."""
        _ip(f"link set {self._link} up")

    def close(self) -> None:
        """End it. What runs on it must have ended."""
        self._process.kill()
        self._process.communicate()


class Network:
    """Machines on one bridge, on which this process is too."""

    def __init__(self) -> None:
        """Build the bridge."""
        self.machines: list[Machine] = []
        _ip("link add bridge0 type bridge")
        _ip(f"addr add {_SUBNET}1/24 dev bridge0")
        _ip("link set bridge0 up")

    def machine(self) -> Machine:
        """One more machine."""
        self.machines.append(Machine(len(self.machines)))
        return self.machines[-1]

    def ip(self, words: str) -> None:
        """A command of ip(8), here."""
        _ip(words)

    def close(self) -> None:
        """Take all of it down."""
        for machine in self.machines:
            machine.close()
        _ip("link delete bridge0")


def _set_namespace(namespace: int) -> None:
    """setns(2), which Python has from 3.12 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0x40000000):  # CLONE_NEWNET
        raise OSError(ctypes.get_errno(), "setns")


def _ip(words: str, prefix: Sequence[str] = ()) -> None:
    done = subprocess.run(
        [*prefix, "ip", *words.split()], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"ip {words}: {done.stderr.strip()}")


def enter_own_network() -> None:
    """Leave the network of the machine for one of our own, as root of it.

    It takes root, or a kernel that lets everybody have user namespaces.
    """
    if os.environ.get(_ENTERED) != str(os.getpid()):
        command = [str(_OWN_NETWORK), sys.executable, *sys.orig_argv[1:]]
        os.execve(command[0], command, os.environ | {_ENTERED: str(os.getpid())})
