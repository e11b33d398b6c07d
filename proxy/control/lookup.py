"""Lookup: the addresses of one DNS name, and how long they hold. The only door to dnspython.

`/etc/hosts` comes first, as everywhere on a machine, then the name servers of `/etc/resolv.conf`
with its search list, or those of `dns.servers`. The system's own resolver would not do: it keeps
to itself for how long an answer holds.

Of a name with addresses of both kinds the IPv4 ones count: a Windows machine is registered with
one of each, and must not become two hosts; and a routing token has room for IPv4 only.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import dns.asyncresolver
import dns.nameserver

from proxy.address import Address, canonical_host

HOSTS_FILE = Path("/etc/hosts")
RESOLV_CONF = Path("/etc/resolv.conf")
HOSTS_FILE_S = 10.0  # how soon a change of it is seen
_LIFETIME_S = 5.0  # for all servers and attempts


@dataclass(frozen=True, slots=True)
class Answer:
    """The IP addresses of a name, in no order that means anything, and how long they hold."""

    addresses: tuple[str, ...]
    ttl_s: float


class NameLookupError(Exception):
    """No address was found. It says why; never that the name's hosts are gone."""


async def look_up(name: str, servers: Sequence[Address] = ()) -> Answer:
    """The addresses of a name.

    Args:
        servers: name servers to ask instead of the system's.

    Raises:
        NameLookupError: nobody answered, or the name has no address.
    """
    listed = _in_hosts_file(name)
    try:
        answer = Answer(listed, HOSTS_FILE_S) if listed else await _resolved(name, servers)
    except Exception as error:  # a resolv.conf that nobody can read is no reason to end, either
        raise NameLookupError(str(error)) from error
    if not answer.addresses:
        raise NameLookupError(f"{name} has no address")
    if not {"0.0.0.0", "::"}.isdisjoint(answer.addresses):  # so filters answer, to block a name
        raise NameLookupError(f"{name} is {', '.join(answer.addresses)}, which is no machine")
    return answer


async def _resolved(name: str, servers: Sequence[Address]) -> Answer:
    """As the name servers have it; without addresses where there are none."""
    resolver = dns.asyncresolver.Resolver(str(RESOLV_CONF), configure=not servers)  # read anew
    if servers:
        resolver.nameservers = [dns.nameserver.Do53Nameserver(*server) for server in servers]
    for kind in ("A", "AAAA"):
        answer = await resolver.resolve(
            name, kind, lifetime=_LIFETIME_S, search=not servers, raise_on_no_answer=False
        )
        if answer.rrset is not None:
            found = tuple(canonical_host(record.address) for record in answer.rrset)
            return Answer(found, float(answer.chaining_result.minimum_ttl))
    return Answer((), 0.0)


def _in_hosts_file(name: str) -> tuple[str, ...]:
    try:
        lines = HOSTS_FILE.read_text("utf-8", "replace").splitlines()
    except OSError:
        return ()
    found = []
    for line in (line for line in lines if name in line.lower()):  # some lists are long
        address, *names = line.partition("#")[0].split() or [""]
        if name in (canonical_host(known) for known in names):
            try:
                found.append(ipaddress.ip_address(canonical_host(address)))
            except ValueError:
                continue
    least = min((address.version for address in found), default=4)
    return tuple(str(address) for address in found if address.version == least)
