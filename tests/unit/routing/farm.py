"""Small farms for the routing tests: pools and routes from a few words."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Any

from proxy.address import Address
from proxy.routing.farm import Farm
from proxy.routing.pool import Host, Pool
from proxy.routing.routes import Routes
from proxy.settings import (
    Balance,
    HostSettings,
    ListenerSettings,
    PoolSettings,
    Settings,
    TokenPolicy,
)
from proxy.wire.tokens import RoutingToken, encode_msts, read_token


def pool(
    name: str = "desktops",
    hosts: int = 3,
    net: str = "10.0.0.",
    balance: Balance = Balance.LEAST_CONNECTIONS,
    weights: list[int] | None = None,
    **more: Any,
) -> Pool:
    """A pool of hosts `a`, `b`, … at net + 21, net + 22, …"""
    return Pool(
        PoolSettings(
            name=name,
            balance=balance,
            hosts=tuple(
                HostSettings(
                    name=f"{chr(97 + index)}",
                    address=Address(f"{net}{21 + index}", 3389),
                    weight=(weights or [100] * hosts)[index],
                )
                for index in range(hosts)
            ),
            **more,
        )
    )


def adopting(*networks: str, name: str = "desktops", port: int = 3389, **more: Any) -> Pool:
    """A pool that adopts hosts in these networks."""
    held = tuple(ip_network(network) for network in networks)
    return pool(name, token=TokenPolicy(networks=held, port=port), **more)


def farm_of(*pools: Pool) -> Farm:
    """A farm of one listener that leads to all of these pools, the first by default."""
    listener = ListenerSettings(
        name="rdp",
        bind=Address("127.0.0.1", 3389),
        pool=pools[0].name,
        token_pools=tuple(each.name for each in pools[1:]),
    )
    return Farm(Settings(listeners=(listener,), pools=tuple(each.settings for each in pools)))


def routes(
    *pools: Pool, collections: dict[str, str] | None = None, token_pools: tuple[str, ...] = ()
) -> Routes:
    """The routes of one listener whose default is the first pool."""
    settings = ListenerSettings(
        name="rdp",
        bind=Address("127.0.0.1", 3389),
        pool=pools[0].name,
        collections=collections or {},
        token_pools=token_pools,
    )
    return Routes(settings, {each.name: each for each in pools})


def token_for(host: Host | str, port: int = 3389) -> RoutingToken:
    """The broker's token for a host, or for an address."""
    address = host.address if isinstance(host, Host) else Address(host, port)
    assert address is not None
    return read_token(encode_msts(address))
