"""Destination: which host's address a client has dialled, where the listener routes by it.

A farm that redirects by address sends its clients straight to a host. Where the hosts' network is
routed through the proxy, they come here nonetheless, and the address that they have dialled says
whom the broker means. It is in the PROXY header of the load balancer that took the connection, or
in this machine's connection tracking. Anybody can dial any address, so it selects among known
hosts, as a token does, and is never dialled for itself.
"""

from __future__ import annotations

import socket
from ipaddress import ip_address

from proxy import sockets
from proxy.address import Address
from proxy.routing.key import is_within
from proxy.routing.routes import Routes
from proxy.settings import ListenerSettings, RouteBy


def dialled_host(
    listener: ListenerSettings, routes: Routes, sock: socket.socket, told: Address | None
) -> Address | None:
    """The address that the client dialled, listed or not; None where that is the proxy's own.

    `told` is what a trusted PROXY header says. A host may have an address of this machine: in a
    test, or where each host has a public address here (`token_addresses`).
    """
    if listener.route_by is not RouteBy.DESTINATION:
        return None
    address = told or sockets.dialled(sock)
    if routes.named_by(address) is not None:
        return address
    if address == listener.bind or is_within(ip_address(address.host), listener.vips):
        return None
    return None if sockets.is_own(address) else address
