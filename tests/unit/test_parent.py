from __future__ import annotations

import errno
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from proxy import channel, notify, parent
from proxy.child import BLOCKED, Child, Role
from proxy.parent import Parent

ROOT = Path(__file__).parents[2]


class Front:
    """A parent whose front is the test itself."""

    def __init__(self) -> None:
        self.parent = Parent(["front"])
        self.control, theirs = channel.pair()
        self.house = self.parent._house
        self.house.front.control = theirs
        self.parent._selector.register(theirs, 1)

    def ask(self, act: str, *fds: int, **fields: object) -> None:
        message = json.dumps({"act": act, **fields}).encode()
        assert channel.send(self.control, message, fds)
        front = self.house.front
        assert front.control is not None
        assert self.parent._hear(front, front.control)

    def answer(self) -> tuple[dict[str, object], tuple[int, ...]]:
        message = channel.receive(self.control)
        assert message is not None
        said: dict[str, object] = json.loads(message.data)
        return said, message.fds

    def close(self) -> None:
        for child in self.house.children:
            self.parent._let_go(child)
        self.control.close()
        self.house.listening.keep_only(())
        if self.house.configuration is not None:
            os.close(self.house.configuration)
        os.close(self.parent._upgrade._report.fd)
        self.parent._woken.close()
        self.parent._waker.close()
        self.parent._selector.close()


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> Iterator[Front]:
    monkeypatch.delenv("NOTIFY_SOCKET", raising=False)
    front = Front()
    yield front
    front.close()


def listen(front: Front, number: int, host: str, port: int) -> socket.socket:
    front.ask("listen", number=number, host=host, port=port)
    said, fds = front.answer()
    assert said == {"act": "listen", "number": number}
    return socket.socket(fileno=fds[0])


def test_the_same_address_is_the_same_listening_socket(front: Front) -> None:
    with listen(front, 1, "127.0.0.1", 0) as first, listen(front, 2, "127.0.0.1", 0) as second:
        assert first.getsockname() == second.getsockname()
        with socket.create_connection(first.getsockname()) as client:
            first.close()
            accepted, peer = second.accept()
            assert peer == client.getsockname()
            accepted.close()


def test_the_unspecified_ipv6_address_takes_ipv4_clients_too(front: Front) -> None:
    if not socket.has_dualstack_ipv6():
        pytest.skip("this system has no IPv6")
    with (
        listen(front, 1, "::", 0) as sock,
        socket.create_connection(("127.0.0.1", sock.getsockname()[1])),
    ):
        accepted, peer = sock.accept()
        accepted.close()
        assert peer[0] == "::ffff:127.0.0.1"


def test_after_unlisten_clients_are_refused_once_the_front_let_go(front: Front) -> None:
    sock = listen(front, 1, "127.0.0.1", 0)
    name = sock.getsockname()
    for number in (2, 3):  # the second time there is nothing to let go
        front.ask("unlisten", number=number, host="127.0.0.1", port=0)
        assert front.answer() == ({"act": "unlisten", "number": number}, ())
    sock.close()
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(name)


def test_what_only_a_front_that_has_died_listened_at_is_let_go(front: Front) -> None:
    with listen(front, 1, "127.0.0.1", 0) as sock:
        gone = sock.getsockname()
    front.house.front.listens = set()  # as of one that is started
    with listen(front, 2, "127.0.0.2", 0) as sock:
        kept = sock.getsockname()
    front.ask("ready")
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(gone)
    socket.create_connection(kept).close()


@pytest.mark.parametrize(
    ("host", "port", "code"),
    [
        ("192.0.2.1", 3389, errno.EADDRNOTAVAIL),
        ("127.0.0.1", 70_000, errno.EINVAL),
    ],
)
def test_an_address_that_cannot_be_bound_is_answered_with_errno_and_text(
    front: Front, host: str, port: int, code: int
) -> None:
    front.ask("listen", number=1, host=host, port=port)
    said, fds = front.answer()
    assert fds == ()
    assert said["errno"] == code
    assert said["error"]


def test_an_address_in_use_is_said_so(front: Front) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        front.ask("listen", number=1, host="127.0.0.1", port=other.getsockname()[1])
        assert front.answer()[0]["errno"] == errno.EADDRINUSE


def test_more_relays_are_made_and_fewer_change_nothing(front: Front) -> None:
    front.ask("relays", number=1, count=3)
    front.ask("relays", number=2, count=2)
    assert [child.index for child in front.house.relays] == [0, 1, 2]
    assert front.house.relays_wanted == 2
    assert [front.answer()[0]["number"], front.answer()[0]["number"]] == [1, 2]


def test_the_newest_configuration_is_kept_and_the_others_closed(front: Front) -> None:
    for text in (b"old", b"new"):
        fd = os.memfd_create("configuration")
        os.write(fd, text)
        front.ask("configuration", fd)
        os.close(fd)
    kept = front.house.configuration
    assert kept is not None
    assert os.pread(kept, 100, 0) == b"new"


def test_nonsense_from_a_front_is_told_and_passed_over(
    front: Front, capsys: pytest.CaptureFixture[str]
) -> None:
    front.ask("listen", number=1)
    assert channel.send(front.control, b"\xff{")
    child = front.house.front
    assert child.control is not None
    assert front.parent._hear(child, child.control)
    front.ask("dance")
    assert capsys.readouterr().err.count("message_refused") == 2
    listen(front, 2, "127.0.0.1", 0).close()


def test_the_pause_before_a_start_grows_and_a_good_life_resets_it(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 1000.0
    monkeypatch.setattr(time, "monotonic", lambda: now)
    child = Child(Role.RELAY, [], started_at=now)
    pauses = []
    for _ in range(8):
        front.parent._again_later(child)
        pauses.append(round(child.due_at - now, 3))
    assert pauses == [0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 5.0, 5.0]
    now += parent.GOOD_LIFE_S
    front.parent._again_later(child)
    assert child.due_at == now


def test_a_command_that_cannot_be_started_ends_the_parent_before_anything_was_ready(
    capfd: pytest.CaptureFixture[str],
) -> None:
    code = "import sys; from proxy.parent import Parent; sys.exit(Parent(['/nowhere']).run())"
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, timeout=30, check=False)
    assert done.returncode == 1
    assert "start_failed" in capfd.readouterr().err


def test_children_inherit_no_descriptor_but_their_own() -> None:
    show = "import os; print(sorted(os.listdir('/proc/self/fd')), flush=True)"
    code = f"from proxy.parent import Parent; Parent([{sys.executable!r}, '-c', {show!r}]).run()"
    read, write = os.pipe()
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        pass_fds=[read, write],
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    channel.close_all([read, write])
    assert done.stdout.strip() == "['0', '1', '2', '3', '4']", "4 is the listing's own"


ORPHAN = """
import os, subprocess, sys, time
middle = "import os; print(os.fork() or os._exit(0))"  # its child outlives it, as a zombie
orphan = int(subprocess.run([sys.executable, "-c", middle], stdout=-1).stdout)
deadline = time.monotonic() + 20
while os.path.exists(f"/proc/{orphan}") and time.monotonic() < deadline:
    time.sleep(0.01)
print("left" if os.path.exists(f"/proc/{orphan}") else "reaped", flush=True)
"""


def test_orphans_are_reaped() -> None:
    """As PID 1 of a container the parent inherits the processes of others."""
    code = f"""
import ctypes
from proxy.parent import Parent
ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER: as PID 1
Parent([{sys.executable!r}, "-c", {ORPHAN!r}]).run()
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.stdout.strip() == "reaped", done.stderr


def test_run_starts_the_front_with_its_arguments(monkeypatch: pytest.MonkeyPatch) -> None:
    commands: list[list[str]] = []

    class Remembers:
        def __init__(self, command: list[str]) -> None:
            commands.append(command)

        def run(self) -> int:
            return 7

    monkeypatch.setattr(parent, "Parent", Remembers)
    assert parent.run(["--config", "x.yaml"]) == 7
    assert commands == [
        [sys.executable, "-m", "proxy.app", "--control-fd", "3", "--config", "x.yaml"]
    ]


def test_children_begin_with_their_signals_blocked_and_not_ignored() -> None:
    assert set(BLOCKED) >= {signal.SIGTERM, signal.SIGHUP, signal.SIGINT}
    show = (
        "import signal; print(sorted(signal.pthread_sigmask(signal.SIG_BLOCK, [])),"
        " signal.getsignal(signal.SIGTERM) == signal.SIG_DFL, flush=True)"
    )
    code = f"from proxy.parent import Parent; Parent([{sys.executable!r}, '-c', {show!r}]).run()"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )
    for name in ("SIGHUP", "SIGINT", "SIGTERM", "SIGUSR1", "SIGUSR2"):
        assert name in done.stdout
    assert done.stdout.endswith("True\n")


def test_a_stop_that_comes_again_after_the_front_ended_keeps_its_code(
    front: Front, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "kill", lambda *_: None)
    front.house.ever_ready = True
    front.house.front.pid = 4711
    front.parent._stop()
    front.parent._died(front.house.front, 5)
    front.parent._stop()
    assert front.parent._code == 5


def test_a_stop_between_two_fronts_ends_the_parent(front: Front) -> None:
    front.parent._stop()
    assert front.parent._code == 0


def test_without_descriptors_a_start_is_tried_again_later(
    front: Front, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def none_left() -> tuple[socket.socket, socket.socket]:
        raise OSError(errno.EMFILE, "too many open files")

    monkeypatch.setattr(channel, "pair", none_left)
    relay = Child(Role.RELAY, ["relay"])
    front.parent._start(relay)
    assert (relay.pid, relay.control, relay.deaths) == (0, None, 1)
    relay.pid = front.house.front.pid = 4711
    front.house._join(front.house.front, relay)
    relay.pid = front.house.front.pid = 0
    assert [json.loads(line)["event"] for line in capsys.readouterr().err.splitlines()] == [
        "start_failed",
        "process_ended",
        "join_failed",
    ]


def test_a_broken_standard_error_is_no_reason_to_end(monkeypatch: pytest.MonkeyPatch) -> None:
    read, write = os.pipe()
    os.close(read)
    with open(write, "w") as broken:  # noqa: PTH123 - a descriptor
        monkeypatch.setattr(sys, "stderr", broken)
        notify.say("nobody_reads")
        monkeypatch.undo()
        os.dup2(os.open(os.devnull, os.O_WRONLY), write)
