"""Loading: a file or a text in, settings or all of its problems out, and what is only suspicious.

Every stage that can still speak does: values (pydantic) and rules across sections (`checks`) are
both asked, whatever the other found. Only a text that is no YAML at all ends the talk early.
"""

from __future__ import annotations

import os
from pathlib import Path

from pydantic import ValidationError

from proxy.address import Address
from proxy.config import checks, document, messages
from proxy.config.document import DocumentError, Fault
from proxy.errors import ConfigError, Problem
from proxy.settings import Settings

_WIDE_IPV4, _WIDE_IPV6 = 16, 64  # bits; networks with fewer draw a warning


def load(path: str | os.PathLike[str]) -> Settings:
    """Read a configuration file.

    Raises:
        ConfigError: the file cannot be read or used; it carries every problem, in file order.
    """
    return loads(read(path), os.fspath(path))


def read(path: str | os.PathLike[str]) -> str:
    """The text of a configuration file.

    Raises:
        ConfigError: it cannot be read, or is no text.
    """
    name = os.fspath(path)
    try:
        with Path(path).open("rb") as file:
            data = file.read(document.MAX_BYTES + 1)  # which is too long already
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        message = f"the file cannot be read: {reason}"
        raise ConfigError([Problem(name, 1, 1, message)]) from None
    try:
        return document.decode(data)
    except DocumentError as refused:
        raise ConfigError([_problem(name, refused.fault)]) from None


def loads(text: str, name: str = "<text>") -> Settings:
    """Read a configuration from its text; `name` stands for the file in problems.

    Raises:
        ConfigError: with every problem, in file order.
    """
    try:
        root = document.read(text)
    except DocumentError as refused:
        raise ConfigError([_problem(name, refused.fault)]) from None
    faults = list(checks.faults(root))
    settings: Settings | None = None
    try:
        settings = Settings.model_validate(root.tree(), by_alias=True, by_name=False)
    except ValidationError as error:
        faults += messages.faults(error.errors(include_url=False), root)
    if faults or settings is None:
        raise ConfigError([_problem(name, fault) for fault in sorted(set(faults))])
    return settings


def warnings(settings: Settings) -> list[str]:
    """What the file allows and its author hardly means, one sentence each."""
    found = []
    used = {name for listener in settings.listeners for name in listener.pools}
    for pool in settings.pools:
        if pool.name not in used:
            found.append(f"pool {pool.name!r}: no listener leads to it")
        if all(host.weight == 0 for host in pool.hosts):
            found.append(f"pool {pool.name!r}: all weights are 0, new clients find no host")
        found += [
            f"pool {pool.name!r}: token.networks: {network} is wide; whoever invents tokens has "
            f"any address in it dialled, at port {pool.token.port}"
            for network in pool.token.networks
            if network.prefixlen < (_WIDE_IPV4 if network.version == 4 else _WIDE_IPV6)
        ]
        if settings.canary.interval_s is not None:
            found += [
                f"host {host.name!r}: the canary cannot test it, tokens hold no IPv6 address"
                for host in pool.hosts
                if ":" in host.address.host
                and all(":" in name.host for name in host.token_addresses)
            ]
    bind = settings.admin.bind
    if isinstance(bind, Address) and not _is_loopback(bind):
        found.append(f"admin.bind: {bind} shows clients' addresses to whoever reaches it")
    return found


def _is_loopback(address: Address) -> bool:
    return address.host == "::1" or address.host.startswith("127.")


def _problem(name: str, fault: Fault) -> Problem:
    return Problem(name, fault.place.line, fault.place.column, fault.message)
