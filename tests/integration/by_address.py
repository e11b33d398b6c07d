"""A farm that redirects by address, behind a proxy that clients pass on their way to it.

    python -m tests.integration.by_address [--logins 60]

Three machines, in networks that this program makes for itself: clients, the proxy, and the session
hosts, which only the proxy reaches. The clients' way to the hosts' network leads to the proxy's
machine, which forwards nothing. The broker redirects by address, so a redirected client dials its
host itself. The same logins are played four times:

    nothing      the proxy's machine does nothing about such connections
    tokens       deploy/nftables/rdp-proxy.nft brings them to the proxy, which goes by tokens
    destination  the same, and the listener has `route_by: destination`
    balancer     the rules bring them to HAProxy, which tells the proxy in a PROXY header

What became of the logins is printed, one line a play; the code is 1 where one failed in the last
two, or none in the others, for then those would have shown nothing.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, contextmanager, suppress
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.farm import Farm
from proxy.lab.login import LoginResult
from proxy.lab.session_host import SessionHost
from proxy.wire.x224 import encode_connection_request
from tests.integration.running import RunningProxy, running
from tests.patience import PATIENCE_S
from tests.servers.network import Machine, Network, enter_own_network

PLAYS = ("nothing", "tokens", "destination", "balancer")
GOOD = PLAYS[2:]
HOSTS = 4
USERS = 12
RDP = 3389
BEHIND = 3390  # where the proxy listens when a balancer has its place
RULES = Path(__file__).parents[2] / "deploy" / "nftables" / "rdp-proxy.nft"
HOSTS4, _HOSTS6 = "10.98.0.", "fd00:98::"
_CLIENTS = "10.99.0."


@contextmanager
def machines() -> Iterator[tuple[Machine, Machine]]:
    """The proxy's, and the hosts', which nothing else reaches."""
    with ExitStack() as stack:
        network = Network()
        stack.callback(network.close)
        router, hosts = network.machine(), network.machine()
        hosts.cut()
        addresses = [f"{HOSTS4}{number}/24" for number in range(11, 11 + HOSTS)]
        router.join(hosts, [f"{HOSTS4}1/24", f"{_HOSTS6}1/64"], addresses)
        router.ip("addr add fd00:99::10/64 dev eth0 nodad")
        network.ip("addr add fd00:99::1/64 dev bridge0 nodad")
        for number in range(USERS):
            network.ip(f"addr add {_CLIENTS}{100 + number}/24 dev bridge0")
        network.ip(f"route add {HOSTS4}0/24 via {router.host}")
        network.ip(f"route add {_HOSTS6}/64 via fd00:99::10")
        command = [*router.prefix, "sysctl", "-qw", "net.ipv4.ip_forward=0"]
        subprocess.run(command, check=True)
        yield router, hosts


def _at_ipv6(host: SessionHost) -> str:
    return _HOSTS6 + host.address.host.removeprefix(HOSTS4)


def bring_here(router: Machine) -> None:
    """Load the rules that the project ships, for these networks."""
    rules = RULES.read_text()
    for theirs, ours in (("10.0.0.0/24", f"{HOSTS4}0/24"), ("fd00:0:0:10::/64", f"{_HOSTS6}/64")):
        assert theirs in rules
        rules = rules.replace(theirs, ours)
    command = [*router.prefix, "nft", "-f", "-"]
    subprocess.run(command, input=rules, text=True, check=True)


@asynccontextmanager
async def proxy_on(
    router: Machine, farm: Farm, directory: Path, port: int = RDP, **listener: object
) -> AsyncIterator[RunningProxy]:
    """rdp-proxy on its machine; hosts have IPv6 addresses by which they may be named, too."""
    async with running(
        farm,
        directory,
        prefix=router.prefix,
        bind=Address("::", port),
        metrics=Address(router.host, 9389),
        listener=listener,
        pool={
            "hosts": [
                {
                    "name": host.name,
                    "address": str(host.address),
                    "token_addresses": [f"[{_at_ipv6(host)}]:{RDP}"],
                }
                for host in farm.hosts.values()
            ]
        },
    ) as proxy:
        yield proxy


@asynccontextmanager
async def _balancer(router: Machine, directory: Path) -> AsyncIterator[None]:
    """HAProxy in the proxy's place, in front of it."""
    file = directory / "haproxy.cfg"
    file.write_text(
        "defaults\n mode tcp\n timeout connect 5s\n timeout client 60s\n timeout server 60s\n"
        f"listen rdp\n bind 0.0.0.0:{RDP}\n server proxy {router.host}:{BEHIND} send-proxy-v2\n"
    )
    with (directory / "haproxy.log").open("wb") as log:
        child = await asyncio.create_subprocess_exec(
            *(*router.prefix, "haproxy", "-db", "-f", str(file)), stdout=log, stderr=log
        )
    try:
        await _until_accepted(Address(router.host, RDP))
        yield
    finally:
        child.terminate()
        await child.wait()


async def _until_accepted(address: Address) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while True:
            with suppress(OSError):
                _, writer = await asyncio.open_connection(*address)
                writer.close()
                return
            await asyncio.sleep(0.05)


async def _log_in(farm: Farm, door: Address, logins: int, *, timeout_s: float) -> list[LoginResult]:
    """All users at once, each login after login; half of them have a session somewhere, the first
    one on another host than the one where he begins."""
    farm.reset()
    names = sorted(farm.hosts)
    first = farm.client(door, "user0", source=f"{_CLIENTS}100", redirections=0)
    begins = (await first.login()).legs[0].reached
    farm.broker.place("user0", next(name for name in names if name != begins))
    for number in range(2, USERS, 2):
        farm.broker.place(f"user{number}", names[number // 2 % HOSTS])
    turns = itertools.count()
    results: list[LoginResult] = []

    async def user(number: int) -> None:
        source = f"{_CLIENTS}{100 + number}"
        client = farm.client(door, f"user{number}", source=source, timeout_s=timeout_s)
        while next(turns) < logins:
            results.append(await client.login())

    async with asyncio.TaskGroup() as tasks:
        for number in range(USERS):
            tasks.create_task(user(number))
    return results


async def _dial_ipv6(farm: Farm, proxy: RunningProxy) -> int:
    """Dial each host at its IPv6 address; how many of these met the right one."""
    request = encode_connection_request(line=b"Cookie: mstshash=six", requested_protocols=3)
    dialled = {f"[{_at_ipv6(host)}]:{RDP}": host.name for host in farm.hosts.values()}
    for host in farm.hosts.values():
        reader, writer = await asyncio.open_connection(_at_ipv6(host), RDP)
        writer.write(request)
        await reader.read(1)
        writer.close()

    def placed() -> list[dict[str, Any]]:
        lines = proxy.events("connection_placed")
        return [line for line in lines if line.get("destination") in dialled]

    async def all_placed() -> bool:
        return len(placed()) == HOSTS

    await proxy.until(all_placed)
    return sum(line["host"] == dialled[line["destination"]] for line in placed())


async def play(logins: int) -> bool:
    """Play all; whether each went as it should."""
    good = True
    async with AsyncExitStack() as stack:
        router, machine = stack.enter_context(machines())
        directory = stack.enter_context(tempfile.TemporaryDirectory())
        with machine.entered():
            started = Farm.start(HOSTS, redirect="address", base=HOSTS4, port=RDP)
            farm = await stack.enter_async_context(started)
        for what in PLAYS:
            if what == "tokens":
                bring_here(router)
            state = Path(directory, what)
            state.mkdir()
            by_destination = what in GOOD
            listener: dict[str, object] = {"route_by": "destination" if by_destination else "token"}
            port = RDP
            async with AsyncExitStack() as running_now:
                if what == "balancer":
                    port = BEHIND
                    listener["proxy_protocol"] = {"trusted": [f"{router.host}/32"]}
                    await running_now.enter_async_context(_balancer(router, state))
                proxy = await running_now.enter_async_context(
                    proxy_on(router, farm, state, port, **listener)
                )
                # Where nothing answers, there is no use in waiting long.
                timeout_s = PATIENCE_S if what in GOOD else 3.0
                door = Address(router.host, RDP)
                results = await _log_in(farm, door, logins, timeout_s=timeout_s)
                # HAProxy 2.6 finds what was dialled where it listens on IPv4 alone.
                six = await _dial_ipv6(farm, proxy) if what == "destination" else None
            good = _judge(what, results, six) and good
    return good


def _judge(what: str, results: list[LoginResult], six: int | None) -> bool:
    redirected = sum(len(result.legs) > 2 for result in results)
    failed = Counter(str(result.failure) for result in results if result.failure is not None)
    words = ", ".join(f"{count} {why}" for why, count in failed.items()) or "0"
    also = "" if six is None else f"; over IPv6 {six} of {HOSTS} met the host that they dialled"
    print(f"{what}: {len(results)} logins, {redirected} redirected; failed: {words}{also}")  # noqa: T201
    if not redirected:
        return False
    if what == "destination" and six != HOSTS:
        return False
    return not failed if what in GOOD else bool(failed)


def main() -> int:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m tests.integration.by_address")
    parser.add_argument("--logins", type=int, default=60, help="of each play (60)")
    options = parser.parse_args()
    enter_own_network()
    return 0 if asyncio.run(play(options.logins)) else 1


if __name__ == "__main__":
    sys.exit(main())
