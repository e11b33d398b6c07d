"""Checks: the rules that bind several sections to each other.

They look at the tree of the file, not at finished settings, so that they also speak while other
keys are still wrong: the operator hears of everything at once. What they cannot read they pass
over; whoever reads single values has complained about it already.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Network, IPv6Network
from itertools import islice

from proxy.address import Address
from proxy.config.document import Fault, Node, Place
from proxy.config.messages import did_you_mean
from proxy.notation import (
    ADMIN_BIND,
    BIND,
    HOST_ADDRESS,
    METRICS_BIND,
    NETWORK,
    TOKEN_ADDRESS,
    Network,
    Reader,
    shown,
    whole,
)
from proxy.settings import AdminSettings, MetricsSettings, TokenPolicy
from proxy.sockets import leads_to
from proxy.wire.tokens import normal_alias

_PORT = whole(1, 65_535)


def faults(root: Node) -> Iterator[Fault]:
    """All faults that show only when sections are held against each other."""
    listeners = root.items("listeners")
    pools = root.items("pools")
    yield from _repeated_names(listeners, "listener")
    yield from _repeated_names(pools, "pool")
    for pool in pools:
        yield from _repeated_names(pool.items("hosts"), "host of this pool")
        yield from _repeated_addresses(pool)
    yield from _unknown_pools(listeners, pools)
    for listener in listeners:
        yield from _repeated_aliases(listener)
    yield from _shared_binds(root)
    yield from _proxies_as_hosts(listeners, pools)
    yield from dict.fromkeys(_disputed_tokens(listeners, pools))
    yield from dict.fromkeys(_disputed_networks(listeners, pools))


def _repeated_names(nodes: list[Node], what: str) -> Iterator[Fault]:
    first: dict[str, Place] = {}
    for node in nodes:
        name = node.text("name")
        if name is None:
            continue
        place = node.place_of(("name",))
        if name in first:
            line = first[name].line
            yield Fault(place, f"name: another {what} is named {name!r} already (line {line})")
        first.setdefault(name, place)


def _repeated_addresses(pool: Node) -> Iterator[Fault]:
    first: dict[Address, str] = {}
    for host in pool.items("hosts"):
        address = _address(host.text("address"), HOST_ADDRESS)
        if address is None:
            continue
        if address in first:
            yield Fault(
                host.place_of(("address",)),
                f"address: {address} is the address of {first[address]!r} already; "
                "one machine is one host, its weight says how much it takes",
            )
        first.setdefault(address, host.text("name") or "another host")


def _unknown_pools(listeners: list[Node], pools: list[Node]) -> Iterator[Fault]:
    known = [name for pool in pools if (name := pool.text("name"))]
    if not known:
        return
    for listener in listeners:
        for loc, name in _pools_of(listener):
            if name not in known:
                meant = did_you_mean(name, known) or f"; there is {', '.join(sorted(known)[:5])}"
                where = loc[0] if isinstance(loc[-1], int) else loc[-1]
                message = f"{where}: no pool is named {shown(name)}{meant}"
                yield Fault(listener.place_of(loc), message)


def _pools_of(listener: Node) -> Iterator[tuple[tuple[str | int, ...], str]]:
    """Where a listener names pools, and which."""
    if pool := listener.text("pool"):
        yield ("pool",), pool
    collections = listener.child("collections")
    if collections is not None and isinstance(collections.value, dict):
        for alias in collections.value:
            if pool := collections.text(alias):
                yield ("collections", alias), pool
    for index, item in enumerate(listener.items("token_pools")):
        if isinstance(item.value, str):
            yield ("token_pools", index), item.value


def _repeated_aliases(listener: Node) -> Iterator[Fault]:
    """Two aliases that differ in case only: what clients send means both."""
    collections = listener.child("collections")
    if collections is None or not isinstance(collections.value, dict):
        return
    first: dict[str, str] = {}
    for alias in collections.value:
        known = first.setdefault(normal_alias(alias), alias)
        if known != alias:
            message = f"{alias}: the same collection as {known!r}; case does not count"
            yield Fault(listener.place_of(("collections", alias)), message)


def _shared_binds(root: Node) -> Iterator[Fault]:
    """Two binds that the kernel cannot both give. The implied defaults take part."""
    taken: list[tuple[Address, str]] = []
    binds: list[tuple[Place, str, Address]] = []
    for section, reader, default in (
        ("metrics", METRICS_BIND, MetricsSettings().bind),
        ("admin", ADMIN_BIND, AdminSettings().bind),
    ):
        node = root.child(section)
        text = node.text("bind") if node is not None else None
        if text is None and isinstance(default, Address):
            taken.append((default, f"{section}.bind (by default)"))
        elif text is not None and (address := _address(text, reader)):
            binds.append((root.place_of((section, "bind")), f"{section}.bind", address))
    for listener in root.items("listeners"):
        if address := _address(listener.text("bind"), BIND):
            who = f"listener {listener.text('name') or '?'!r}"
            binds.append((listener.place_of(("bind",)), who, address))
    for place, who, address in sorted(binds):
        other = next((owner for used, owner in taken if used.overlaps(address)), None)
        if other is not None:
            yield Fault(place, f"bind: {address} is taken by {other} already")
        taken.append((address, who))


def _proxies_as_hosts(listeners: list[Node], pools: list[Node]) -> Iterator[Fault]:
    """Hosts that are this proxy itself: it would send each client round and round."""
    binds = [(it.text("name") or "?", _address(it.text("bind"), BIND)) for it in listeners]
    for host in (host for pool in pools for host in pool.items("hosts")):
        address = _address(host.text("address"), HOST_ADDRESS)
        if address is None or not address.is_ip:
            continue
        for name, bind in binds:
            if bind is not None and leads_to(address, bind):
                message = f"address: at {address} listens {name!r}, this proxy itself"
                yield Fault(host.place_of(("address",)), message)


def _disputed_tokens(listeners: list[Node], pools: list[Node]) -> Iterator[Fault]:
    """A token address that would lead to either of two machines behind one listener."""
    by_name = {pool.text("name"): pool for pool in reversed(pools)}
    for listener in listeners:
        claimed: dict[Address, tuple[Address, str]] = {}
        names = dict.fromkeys(name for _, name in _pools_of(listener))
        for pool in (by_name[name] for name in names if name in by_name):
            for host in pool.items("hosts"):
                main = _address(host.text("address"), HOST_ADDRESS)
                if main is None:
                    continue
                name = host.text("name") or "?"
                for place, address in _claims(host, main):
                    owner, owner_name = claimed.setdefault(address, (main, name))
                    if owner != main:
                        message = f"tokens for {address} already lead to host {owner_name!r}"
                        yield Fault(place, f"{message}; they can lead to one only")


def _disputed_networks(listeners: list[Node], pools: list[Node]) -> Iterator[Fault]:
    """Networks in which either of two pools behind one listener would adopt a host."""
    by_name = {pool.text("name"): pool for pool in reversed(pools)}
    for listener in listeners:
        claimed: list[tuple[str, int, Network]] = []
        names = dict.fromkeys(name for _, name in _pools_of(listener))
        for name in (name for name in names if name in by_name):
            own = list(_networks(by_name[name]))
            for place, port, network in own:
                others = (it for it in claimed if it[1] == port and _meet(it[2], network))
                for other, _, taken in islice(others, 1):
                    message = f"networks: {network} and {taken} of pool {other!r} overlap"
                    yield Fault(place, f"{message}; a token can lead to one pool only")
            claimed += [(name, port, network) for _, port, network in own]


def _networks(pool: Node) -> Iterator[tuple[Place, int, Network]]:
    """The networks in which a pool adopts hosts, and their port."""
    policy = pool.child("token")
    if policy is None:
        return
    text = policy.text("port")
    port = TokenPolicy().port if text is None else _read(text, _PORT)
    for index, item in enumerate(policy.items("networks")):
        network = _read(item.value, NETWORK)
        if isinstance(network, IPv4Network | IPv6Network) and isinstance(port, int):
            yield policy.place_of(("networks", index)), port, network


def _meet(one: Network, other: Network) -> bool:
    if isinstance(one, IPv4Network):
        return isinstance(other, IPv4Network) and one.overlaps(other)
    return isinstance(other, IPv6Network) and one.overlaps(other)


def _claims(host: Node, main: Address) -> Iterator[tuple[Place, Address]]:
    """The addresses by which tokens name a host."""
    if main.is_ip:
        yield host.place_of(("address",)), main
    for index, item in enumerate(host.items("token_addresses")):
        text = item.value if isinstance(item.value, str) else None
        if address := _address(text, TOKEN_ADDRESS):
            place = host.place_of(("token_addresses", index))
            yield place, Address(address.host, address.port or main.port)


def _address(text: str | None, reader: Reader) -> Address | None:
    """The address in a text, None where it is none."""
    value = _read(text, reader)
    return value if isinstance(value, Address) else None


def _read(value: object, reader: Reader) -> object:
    """What a value says, None where it says nothing: not ours to complain about."""
    try:
        return reader(value)
    except ValueError:
        return None
