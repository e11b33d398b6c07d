"""Changes: what differs between two configurations, and when each difference takes effect.

The one place that decides this: `rdp-proxy check --against` prints it, and a running proxy that
takes a new configuration goes by it. Pure.

Elements of lists are recognised by their names. Whatever is not listed in LIVE waits for the next
start or upgrade, so that a setting that nobody has thought of is never said to be in force.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from proxy.address import Address
from proxy.config.document import Tree
from proxy.settings import Settings

LIVE = (
    "listeners",
    "pools",
    "timeouts",
    "limits",
    "dns",
    "canary",
    "log.level",
    "log.format",
    "affinity.shared_after",
)
_HIDDEN = "affinity.url"  # it may hold a password
_SHOWN_MAX = 60


@dataclass(frozen=True, slots=True)
class Change:
    """One difference.

    Attributes:
        where: the path of names and keys, such as `pools.desktops.hosts.rdsh01.weight`.
        before, after: as the file writes them; None where there is nothing.
        waits: it takes effect with the next start or upgrade, not by a reload.
        hosts: how many entries for session hosts it adds; negative: it removes so many.
    """

    where: str
    before: str | None
    after: str | None
    waits: bool
    hosts: int = 0

    def __str__(self) -> str:
        if self.before is None:
            text = f"+ {self.where}: {self.after}"
        elif self.after is None:
            text = f"- {self.where}: {self.before}"
        else:
            text = f"~ {self.where}: {self.before} -> {self.after}"
        return f"{text} (with the next start or upgrade)" if self.waits else text


def changes(old: Settings, new: Settings) -> list[Change]:
    """All differences, in the order of the settings."""
    return [
        Change(
            where,
            _shown(where, before),
            _shown(where, after),
            not _is_live(where),
            _hosts(where, after) - _hosts(where, before),
        )
        for where, before, after in _differences("", _tree(old), _tree(new))
    ]


def in_force(old: Settings, new: Settings) -> Settings:
    """What a proxy that runs with `old` has in force when it is given `new`: that, but for the
    parts that wait."""
    kept: dict[str, object] = {}
    for section in Settings.model_fields:
        if section in LIVE:
            continue
        before, after = getattr(old, section), getattr(new, section)
        live = [key for key in type(after).model_fields if f"{section}.{key}" in LIVE]
        kept[section] = before.model_copy(update={key: getattr(after, key) for key in live})
    return new.model_copy(update=kept)


def clashes(old: Settings, new: Settings) -> list[str]:
    """Why a proxy that runs with `old` cannot take `new`: a listener is to have an address that a
    part which waits still has."""
    return [
        f"listener {listener.name!r} cannot have {listener.bind}: {section}.bind is {bind} until "
        "the next start or upgrade"
        for section, bind in (("metrics", old.metrics.bind), ("admin", old.admin.bind))
        if isinstance(bind, Address)
        for listener in new.listeners
        if bind.overlaps(listener.bind)
    ]


def summary(found: Sequence[Change]) -> dict[str, object]:
    """The same in few fields, for a log line."""
    return {
        "changes": len(found),
        "hosts_added": sum(max(0, change.hosts) for change in found),
        "hosts_removed": sum(max(0, -change.hosts) for change in found),
        "wait": [change.where for change in found if change.waits] or None,
    }


def _is_live(where: str) -> bool:
    return any(where == live or where.startswith(f"{live}.") for live in LIVE)


def _hosts(where: str, value: Tree | None) -> int:
    """How many session hosts a pool or a host of the configuration stands for."""
    if not where.startswith("pools.") or not isinstance(value, dict):
        return 0
    hosts = value.get("hosts")
    return len(hosts) if isinstance(hosts, list) else int("address" in value)


def _tree(settings: Settings) -> Tree:
    tree: Tree = settings.model_dump(mode="json", by_alias=True)
    return tree


def _differences(
    where: str, old: Tree | None, new: Tree | None
) -> Iterator[tuple[str, Tree | None, Tree | None]]:
    if old == new:
        return
    before, after = _by_name(old), _by_name(new)
    if before is None or after is None:
        yield where, old, new
        return
    for key in dict.fromkeys([*before, *after]):
        path = f"{where}.{key}" if where else key
        yield from _differences(path, before.get(key), after.get(key))


def _by_name(tree: Tree | None) -> dict[str, Tree] | None:
    """The parts of a mapping, or of a list whose elements have names; None of anything else."""
    if isinstance(tree, dict):
        return tree
    if (
        isinstance(tree, list)
        and tree
        and all(isinstance(it, dict) and "name" in it for it in tree)
    ):
        return {str(it["name"]): it for it in tree if isinstance(it, dict)}
    return None


def _shown(where: str, value: Tree | None) -> str | None:
    """A value on one line; of a listener, pool or host that which tells it from others."""
    if value is None:
        return None
    if where == _HIDDEN:
        return "(not shown)"
    if isinstance(value, dict):
        hosts = value.get("hosts")
        if isinstance(hosts, list):
            return f"{len(hosts)} hosts" if len(hosts) != 1 else "1 host"
        value = value.get("address") or value.get("bind") or value
    text = value if isinstance(value, str) else json.dumps(value)
    return text if len(text) <= _SHOWN_MAX else f"{text[: _SHOWN_MAX - 3]}..."
