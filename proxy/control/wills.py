"""The operator's hand on the hosts: drain one, take it out, give it back, change its weight.

    PUT /v1/hosts/will?host=&pool=&will=&pins=&deadline=&close=
    PUT /v1/hosts/weight?host=&pool=&weight=

Changes go to the table that all nodes share, so they count here at once, on the other nodes within
seconds, and over restarts. A host that several pools have under one name is one machine: without
`pool` all of them are meant. Nothing that lives is touched, unless `close` says so.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from proxy.control.exposition import Sample
from proxy.control.http import Answer, Handler, Request, json_answer
from proxy.control.query import QueryError, hosts_meant, only
from proxy.notation import duration
from proxy.routing.agent import AgentWord
from proxy.routing.pool import Host, Pool
from proxy.routing.will import WEIGHT_MAX, Pins, Will, Wish
from proxy.server.wills import WillKeeper

_DEADLINE = duration(0, 365 * 86400.0)
_DEFAULT = "default"
_W = TypeVar("_W", Will, Pins)


@dataclass(frozen=True, slots=True)
class WillDesk:
    """Changes what is wanted of hosts.

    Attributes:
        wall: seconds since the epoch.
    """

    keeper: WillKeeper
    pools: Callable[[], Mapping[str, Pool]]
    wall: Callable[[], float]

    def routes(self) -> dict[str, Handler]:
        """Raises StoreError and QueryError, which the admin endpoint tells."""
        return {"PUT /v1/hosts/will": self._will, "PUT /v1/hosts/weight": self._weight}

    def row(self, host: Host) -> dict[str, object]:
        """What is wanted of a host, and how far it has come."""
        wish, now = host.wish, self.wall()
        drains = wish.will is Will.DRAIN
        left_s = None if wish.deadline is None or not drains else wish.deadline - now
        return {
            "will": wish.will,
            "no_new_clients": self._obstacle(host),
            "in_force": host.will,  # the agent's, where the operator wants nothing else
            "will_since_s": None if wish.since is None else round(max(0.0, now - wish.since), 3),
            "pins": wish.pins if drains else None,
            "deadline_s": None if left_s is None else round(left_s, 3),
            "close": wish.close,
            "weight": host.weight,
            "configured_weight": host.settings.weight,
            "backup": host.backup,
            "share": round(host.share, 3),  # the weight as it counts now
            "connections": host.live,
            "max_connections": None if math.isinf(host.most) else host.most,
            "waiting": host.waiting,
            "agent": _agent(host),
            "in_use": self.keeper.is_in_use(host),
        }

    def samples(self, host: Host) -> Iterator[Sample]:
        """Since when and until when, which tells a drain that does not end; and who waits."""
        wish, labels = host.wish, (host.pool, host.name)
        yield Sample("host_waiting_clients", labels, host.waiting)
        if wish.since is not None:
            yield Sample("host_will_since_timestamp_seconds", labels, wish.since)
        if wish.deadline is not None and wish.will is Will.DRAIN:
            yield Sample("host_drain_deadline_timestamp_seconds", labels, wish.deadline)

    def node_samples(self) -> Iterator[Sample]:
        """Whether this node knows what is wanted of the hosts."""
        yield Sample("wills_known", (), self.keeper.is_known)

    def _obstacle(self, host: Host) -> str | None:
        """Why no new client is balanced to a host now, in a word; None: some are."""
        if host.leaving:  # the configuration no longer has it, or its DNS name
            return "leaves"
        if host.adopted:
            return "adopted"
        if host.will is not Will.READY:
            return host.will
        if not host.takes:
            return "weight 0" if host.alive else "down"
        if host.full:
            return "full"
        if host.backup and host not in self.pools()[host.pool].ready():
            return "backup"
        return None

    async def _will(self, request: Request) -> Answer:
        query = request.query
        only(query, "host", "pool", "will", "pins", "deadline", "close")
        will = _word(Will, "will", query.get("will"))
        if "pins" in query and will is not Will.DRAIN:
            raise QueryError("pins is for will=drain")
        if "deadline" in query and will is not Will.DRAIN:
            raise QueryError("deadline is for will=drain")
        pins = _word(Pins, "pins", query["pins"]) if "pins" in query else None
        close = query.get("close", "false") == "true"
        now = self.wall()
        deadline = now if close and will is Will.MAINTENANCE else _deadline(query, now)

        def change(wish: Wish) -> Wish:
            if will is not wish.will or will is Will.READY:
                wish = Wish(will, since=now, weight=wish.weight)
            # Said again, as by one who comes back to wait, it leaves the conditions as they are.
            wish = replace(
                wish,
                pins=pins or wish.pins,
                deadline=wish.deadline if deadline is None else deadline,
                close=wish.close or close,
            )
            if wish.close and wish.deadline is None:
                raise QueryError("close needs a deadline, where a host is drained")
            return wish

        return await self._say(query, change)

    async def _weight(self, request: Request) -> Answer:
        only(request.query, "host", "pool", "weight")
        weight = _weight(request.query.get("weight"))
        return await self._say(request.query, lambda wish: replace(wish, weight=weight))

    async def _say(self, query: Mapping[str, str], change: Callable[[Wish], Wish]) -> Answer:
        hosts = self._chosen(query)
        for host in hosts:
            await self.keeper.say(host, change)
        rows = [
            {
                "pool": host.pool,
                "host": host.name,
                "address": str(host.settings.address),
                **self.row(host),
            }
            for host in hosts
        ]
        return json_answer({"hosts": rows})

    def _chosen(self, query: Mapping[str, str]) -> list[Host]:
        if "host" not in query:
            raise QueryError("the host is wanted")
        return hosts_meant(query, self.pools())


def _agent(host: Host) -> dict[str, object] | None:
    """What the host's own agent has said, where there is one."""
    said = host.agent
    if said == AgentWord():
        return None
    return {
        "will": said.will,
        "down": said.down,
        "percent": said.percent,
        "max_connections": said.max_connections,
        "detail": said.detail,
    }


def _word(words: type[_W], name: str, text: str | None) -> _W:
    try:
        return words(text or "")
    except ValueError:
        allowed = ", ".join(words)
        raise QueryError(f"{name} is one of {allowed}, not {text!r}") from None


def _deadline(query: Mapping[str, str], now: float) -> float | None:
    text = query.get("deadline")
    if text is None:
        return None
    try:
        seconds = _DEADLINE(text)
    except ValueError as error:
        raise QueryError(f"deadline: {error}") from None
    assert isinstance(seconds, float)
    return now + seconds


def _weight(text: str | None) -> int | None:
    if text == _DEFAULT:
        return None
    if text is None or not (text.isascii() and text.isdigit() and int(text) <= WEIGHT_MAX):
        said = f"weight is a whole number from 0 to {WEIGHT_MAX}, or {_DEFAULT}"
        raise QueryError(f"{said}, not {text!r}")
    return int(text)
