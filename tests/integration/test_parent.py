"""A real parent with a small front and real relays: what dies comes back, and nothing is lost."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.patience import PATIENCE_S
from tests.unit.relay.harness import read_to_end, wait_for

# A front in small: accepts on one address, connects to the far host, hands over to relays.
FRONT = """
import argparse, asyncio, json, os, pathlib, signal, socket, sys, time
from proxy import channel
from proxy.address import Address
from proxy.parent_link import ParentLink
from proxy.relay.hand_off import RelayPool

parser = argparse.ArgumentParser()
parser.add_argument("--control-fd", type=int)
parser.add_argument("--log")
parser.add_argument("--host-port", type=int)
parser.add_argument("--relays", type=int, default=1)
parser.add_argument("--mode", default="serve")
args = parser.parse_args()

def tell(event, **fields):
    with open(args.log, "a") as log:
        log.write(json.dumps({"event": event, "pid": os.getpid(), **fields}) + "\\n")

class Observer:
    def __init__(self): self.rows, self.lost = [], []
    def relay_row(self, row): self.rows.append(row.conn_id)
    def relay_ready(self, index): tell("relay_ready", index=index)
    def relay_progress(self, *_): pass
    def relay_ended(self, conn_id, ending): tell("ended", conn_id=conn_id)
    def relay_lost(self, conn_ids): tell("lost", conn_ids=conn_ids)

async def main():
    loop = asyncio.get_running_loop()
    stop = asyncio.Event()
    code = 0
    if args.mode == "exit2":
        return 2
    observer = Observer()
    pool = RelayPool(observer, loop)
    def attached(index, pid, sock, *, retired):
        tell("relay", index=index, relay_pid=pid)
        pool.attach(index, pid, sock, retired=retired)
    def orphaned():
        tell("orphaned")
        os._exit(9)
    link = ParentLink(channel.adopt(args.control_fd), on_relay=attached,
                      on_retire=stop.set, on_parent_gone=orphaned)
    def terminated():
        nonlocal code
        tell("sigterm")
        if args.mode != "stubborn":
            code = 5
            stop.set()
    loop.add_signal_handler(signal.SIGTERM, terminated)
    loop.add_signal_handler(signal.SIGHUP, lambda: tell("sighup"))
    running = asyncio.ensure_future(link.run())
    try:
        await link.listen(Address("192.0.2.1", 1))
    except OSError as error:
        tell("refused", errno=error.errno)
    sock = await link.listen(Address("127.0.0.1", 0))
    again = await link.listen(Address("127.0.0.1", 0))
    assert sock.getsockname() == again.getsockname()
    again.close()
    if args.mode == "slow":
        await stop.wait()
    await link.relays(args.relays)
    await pool.ready(args.relays, 20)
    configuration = link.last_configuration
    link.keep_configuration((configuration or "") + "x" * 300_000)
    def accept():
        client, _ = sock.accept()
        host = socket.create_connection(("127.0.0.1", args.host_port))
        async def give():
            await pool.hand_off(time.monotonic_ns(), client, host, bytes_up=0, idle_s=None,
                                half_close_s=5, record=b"")
        tasks.add(asyncio.ensure_future(give()))
    tasks = set()
    loop.add_reader(sock, accept)
    link.ready()
    tell("ready", port=sock.getsockname()[1], rows=observer.rows,
         configuration=len(configuration or ""))
    if args.mode == "die_young":
        return 3
    if args.mode == "silent":
        time.sleep(60)
    await stop.wait()
    await link.unlisten(Address("127.0.0.1", 0))
    sock.close()
    running.cancel()
    return code

sys.exit(asyncio.run(main()))
"""
PARENT = (
    "import json, sys; from proxy.parent import Parent; sys.exit(Parent({}, silence_s={}).run())"
)


class House:
    """A parent, its fronts and relays, and the host behind them."""

    def __init__(self, folder: Path, *, silence_s: float = 10.0, **options: object) -> None:
        self.log = folder / "front.log"
        self.log.touch()
        script = folder / "front.py"
        script.write_text(FRONT)
        self.host = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.host.settimeout(PATIENCE_S)
        command = [sys.executable, str(script), "--control-fd", "3", "--log", str(self.log)]
        command += ["--host-port", str(self.host.getsockname()[1])]
        for name, value in options.items():
            command += [f"--{name}", str(value)]
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
        notify = folder / "notify"
        self.notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.notify.bind(str(notify))
        self.notify.settimeout(PATIENCE_S)
        environment |= {"NOTIFY_SOCKET": str(notify), "WATCHDOG_USEC": "400000"}
        code = PARENT.format(command, silence_s)
        self.parent = subprocess.Popen([sys.executable, "-c", code], env=environment)

    def events(self, kind: str) -> list[dict[str, object]]:
        lines = [json.loads(line) for line in self.log.read_text().splitlines()]
        return [line for line in lines if line["event"] == kind]

    def wait_ready(self, count: int) -> dict[str, object]:
        """The `count`-th front that became ready."""
        wait_for(lambda: len(self.events("ready")) >= count)
        return self.events("ready")[count - 1]

    def connect(self) -> tuple[socket.socket, socket.socket]:
        """A client, and the host's end of its connection."""
        client = self.client()
        host, _ = self.host.accept()
        host.settimeout(PATIENCE_S)
        return client, host

    def client(self) -> socket.socket:
        port = self.events("ready")[0]["port"]
        assert isinstance(port, int)
        return socket.create_connection(("127.0.0.1", port), timeout=PATIENCE_S)

    def close(self) -> None:
        pids = [event["pid"] for kind in ("ready", "sigterm") for event in self.events(kind)]
        pids += [event["relay_pid"] for event in self.events("relay")]
        self.parent.kill()
        self.parent.wait(PATIENCE_S)
        for pid in {pid for pid in pids if isinstance(pid, int) and runs(pid)}:
            os.kill(pid, signal.SIGKILL)
        self.host.close()
        self.notify.close()


def state(pid: object) -> str:
    """One letter, as proc(5) has it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def runs(pid: object) -> bool:
    """Whether this process of ours is alive (and not only a zombie)."""
    try:
        letter = state(pid)
        command = Path(f"/proc/{pid}/cmdline").read_bytes()
    except OSError:
        return False
    return letter != "Z" and b"--control-fd" in command


def kill(pid: object, number: signal.Signals) -> None:
    assert isinstance(pid, int)
    os.kill(pid, number)


@pytest.fixture
def build(tmp_path: Path) -> Iterator[Callable[..., House]]:
    houses: list[House] = []

    def start(**options: object) -> House:
        house = House(tmp_path, **options)  # type: ignore[arg-type]
        houses.append(house)
        return house

    yield start
    for house in houses:
        house.close()


def echo(client: socket.socket, host: socket.socket, text: bytes) -> None:
    client.sendall(text)
    assert host.recv(100) == text
    host.sendall(text[::-1])
    assert client.recv(100) == text[::-1]


def test_a_killed_front_is_replaced_while_clients_wait_and_connections_go_on(
    build: Callable[..., House],
) -> None:
    house = build(relays=2)
    first = house.wait_ready(1)
    pairs = [house.connect() for _ in range(6)]
    for client, host in pairs:
        echo(client, host, b"before")  # so it is in a relay's hands
    kill(first["pid"], signal.SIGSTOP)
    wait_for(lambda: state(first["pid"]) == "T")
    waiting = [house.client() for _ in range(5)]  # in the queue of the listening socket
    kill(first["pid"], signal.SIGKILL)
    for number, (client, host) in enumerate(pairs):
        echo(client, host, b"during %d" % number)
    second = house.wait_ready(2)
    assert second["pid"] != first["pid"]
    assert second["port"] == first["port"]
    assert len(second["rows"]) == 6  # type: ignore[arg-type]
    assert second["configuration"] == 300_000, "what the first front left"
    for client in waiting:
        host, _ = house.host.accept()
        client.sendall(b"was waiting")
        assert host.recv(100) == b"was waiting"
        client.close()
        host.close()
    for client, host in pairs:
        echo(client, host, b"after")
        client.close()
        host.close()
    wait_for(lambda: len(house.events("ended")) == 11)
    assert len({event["relay_pid"] for event in house.events("relay")}) == 2


def test_a_front_that_ends_before_it_was_ready_ends_the_parent_with_its_code(
    build: Callable[..., House],
) -> None:
    house = build(mode="exit2")
    assert house.parent.wait(PATIENCE_S) == 2


def test_a_front_that_dies_again_and_again_after_it_was_ready_is_started_again(
    build: Callable[..., House],
) -> None:
    house = build(mode="die_young")
    house.wait_ready(4)
    assert house.parent.poll() is None
    house.parent.send_signal(signal.SIGTERM)
    house.parent.wait(PATIENCE_S)


def test_sigterm_ends_the_front_then_the_relays_and_returns_the_fronts_code(
    build: Callable[..., House],
) -> None:
    house = build(relays=2)
    house.wait_ready(1)
    client, host = house.connect()
    echo(client, host, b"hello")
    house.parent.send_signal(signal.SIGTERM)
    assert house.parent.wait(PATIENCE_S) == 5
    assert len(house.events("sigterm")) == 1
    assert not any(runs(event["relay_pid"]) for event in house.events("relay"))
    assert (client.recv(1), host.recv(1)) == (b"", b"")
    with pytest.raises(ConnectionRefusedError):
        house.client()
    client.close()
    host.close()


def test_a_stop_that_comes_during_the_start_is_obeyed_in_order(build: Callable[..., House]) -> None:
    house = build(mode="slow")
    wait_for(lambda: len(house.events("refused")) == 1)
    house.parent.send_signal(signal.SIGTERM)
    assert house.parent.wait(PATIENCE_S) == 5
    assert len(house.events("ready")) == 1


def test_ctrl_c_reaches_the_front_once_and_as_sigterm(build: Callable[..., House]) -> None:
    house = build()
    ready = house.wait_ready(1)
    kill(ready["pid"], signal.SIGINT)  # as a terminal sends it to all of the group
    house.parent.send_signal(signal.SIGINT)
    assert house.parent.wait(PATIENCE_S) == 5
    assert len(house.events("sigterm")) == 1


def test_a_second_sigterm_ends_everything_at_once(build: Callable[..., House]) -> None:
    house = build(mode="stubborn")
    house.wait_ready(1)
    house.parent.send_signal(signal.SIGTERM)
    wait_for(lambda: len(house.events("sigterm")) == 1)
    house.parent.send_signal(signal.SIGTERM)
    assert house.parent.wait(PATIENCE_S) == 128 + signal.SIGKILL
    assert not any(runs(event["relay_pid"]) for event in house.events("relay"))


def test_sighup_is_passed_on(build: Callable[..., House]) -> None:
    house = build()
    house.wait_ready(1)
    house.parent.send_signal(signal.SIGHUP)
    wait_for(lambda: len(house.events("sighup")) == 1)
    assert house.parent.poll() is None


def test_a_front_that_is_silent_is_killed_and_replaced(build: Callable[..., House]) -> None:
    house = build(mode="silent", silence_s=4.0)
    first = house.wait_ready(1)
    second = house.wait_ready(2)
    assert first["pid"] != second["pid"]
    assert not runs(first["pid"])


def test_a_front_whose_loop_turns_is_not_silent(build: Callable[..., House]) -> None:
    house = build(silence_s=6.0)
    house.wait_ready(1)
    time.sleep(8)  # longer than silence may last
    assert len(house.events("ready")) == 1


def test_without_the_parent_the_front_ends_at_once_and_relays_after_their_last_connection(
    build: Callable[..., House],
) -> None:
    house = build(relays=2)
    front = house.wait_ready(1)["pid"]
    client, host = house.connect()
    echo(client, host, b"before")
    relays = [event["relay_pid"] for event in house.events("relay")]
    house.parent.kill()
    house.parent.wait(PATIENCE_S)
    wait_for(lambda: not runs(front))
    assert len(house.events("orphaned")) == 1
    wait_for(lambda: sum(runs(pid) for pid in relays) == 1)  # the idle one has ended
    for _ in range(20):
        echo(client, host, b"orphans")
    client.shutdown(socket.SHUT_WR)
    assert read_to_end(host) == b""
    host.close()
    client.close()
    wait_for(lambda: not any(runs(pid) for pid in relays))


def test_a_relay_that_dies_is_replaced_and_its_connections_are_accounted(
    build: Callable[..., House],
) -> None:
    house = build(relays=1)
    house.wait_ready(1)
    client, host = house.connect()
    echo(client, host, b"before")
    kill(house.events("relay")[0]["relay_pid"], signal.SIGKILL)
    wait_for(lambda: len(house.events("lost")) == 1)
    wait_for(lambda: len(house.events("relay_ready")) == 2)
    assert [event["index"] for event in house.events("relay")] == [0, 0]
    with client, host:
        assert (read_to_end(client), read_to_end(host)) == (b"", b"")
    client, host = house.connect()
    echo(client, host, b"after")
    client.close()
    host.close()
    assert len(house.events("ready")) == 1, "the front is the same"


def test_an_address_that_cannot_be_bound_is_told_with_its_errno(
    build: Callable[..., House],
) -> None:
    house = build()
    house.wait_ready(1)
    assert [event["errno"] for event in house.events("refused")] == [99]


def test_the_service_manager_hears_ready_the_watchdog_and_the_stop(
    build: Callable[..., House],
) -> None:
    house = build()
    heard: list[str] = []

    def listen_for(text: str) -> None:
        while not any(text in line for line in heard):
            heard.append(house.notify.recv(1000).decode())

    listen_for(f"READY=1\nMAINPID={house.parent.pid}")
    heard.clear()
    listen_for("WATCHDOG=1")
    house.parent.send_signal(signal.SIGTERM)
    listen_for("STOPPING=1")
    assert house.parent.wait(PATIENCE_S) == 5
