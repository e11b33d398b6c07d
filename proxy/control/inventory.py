"""Inventory: how each session host answers, and which certificate it shows.

It is fed by what health checks find (`checked`), so a pool with `check: tls` has certificates, one
with `check: x224` how its hosts negotiate, one with `check: tcp` nothing. Kept in memory: a front
that starts anew reads all of it within seconds. What changed while no front ran is no event, but
Prometheus shows it: `host_certificate_info` has another fingerprint.

Told in the log:
- `host_certificate_changed`, with old and new. Windows replaces the certificate that it has signed
  itself every half a year; such a change is told apart (`rolled`) and no warning.
- `pool_certificates_differ`: no name is good for all hosts of a pool, so whatever name clients
  connect to, some hosts show a certificate for another; or the pool keeps no pins (`key: none`),
  so the connections of one login meet several certificates. Once for as long as it is so, however
  hosts come and go; and not before each host was heard of, or every start would tell it twice.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field

from proxy.address import Address
from proxy.control.certificates import (
    Certificate,
    names_in_common,
    read_certificate,
    rolled_by_itself,
    utc_text,
)
from proxy.control.exposition import Sample
from proxy.control.http import Answer, Handler, Request, json_answer
from proxy.control.probe import ProbeResult
from proxy.control.query import is_meant, only
from proxy.routing.pool import Host, Pool
from proxy.settings import AffinityKeyKind
from proxy.wire.x224 import NegotiationResponse, answer_word, flag_words

log = logging.getLogger("proxy")

_SHOWN_NAMES = 5  # in a warning


@dataclass(slots=True)
class Known:
    """What is known of one host.

    Attributes:
        address: where it was seen.
        answer: what it selects (`hybrid`, `ssl`, `rdp`, …) or refuses with (`failure_3`).
        flags: what it says it can do.
        tls: the version that it agreed on.
        certificate: the one that it showed last, and `der` its bytes.
        seen_at: when, in seconds since the epoch.
        changes: how many times it showed another one than before.
    """

    host: Host
    address: Address
    heard: bool = False
    answer: str | None = None
    flags: tuple[str, ...] = ()
    tls: str | None = None
    certificate: Certificate | None = None
    der: bytes | None = None
    seen_at: float | None = None
    changes: int = 0

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        return {
            "pool": self.host.pool,
            "host": self.host.name,
            "answer": self.answer,
            "flags": list(self.flags),
            "tls": self.tls,
            "certificate": self.certificate.as_dict() if self.certificate else None,
            "seen_at": utc_text(round(self.seen_at)) if self.seen_at else None,
            "changes": self.changes,
        }


@dataclass(slots=True)
class _Pool:
    """The hosts of a pool: those that were not heard of yet, and what was told of all of them."""

    known: dict[str, Known] = field(default_factory=dict)
    unheard: set[str] = field(default_factory=set)
    keeps_pins: bool = True
    told: frozenset[str] = frozenset()

    def certificates(self) -> list[Certificate]:
        return [known.certificate for known in self.known.values() if known.certificate]


class Inventory:
    """What is known of the hosts of `pools`.

    Args:
        wall: seconds since the epoch.
    """

    def __init__(self, pools: Iterable[Pool], wall: Callable[[], float]) -> None:
        self._wall = wall
        self._pools: dict[str, _Pool] = {}
        self.watch(pools)

    def watch(self, pools: Iterable[Pool]) -> None:
        """Keep the hosts of these pools from now on.

        What is known of a host stays where pool, name and address are as before.
        """
        before, self._pools = self._pools, {}
        for pool in pools:
            was = before.get(pool.name, _Pool())
            keeps_pins = pool.settings.affinity.key is not AffinityKeyKind.NONE
            kept = self._pools[pool.name] = _Pool(keeps_pins=keeps_pins, told=was.told)
            for host in pool.hosts:
                known = was.known.get(host.name)
                if known is None or known.address != host.address:
                    known = Known(host, host.address)
                known.host = host
                kept.known[host.name] = known
                if not known.heard:
                    kept.unheard.add(host.name)
            if not kept.unheard:
                self._judge(pool.name, kept)

    def checked(self, host: Host, result: ProbeResult) -> None:
        """Take in what a probe of a host has found."""
        pool = self._pools.get(host.pool)
        known = pool.known.get(host.name) if pool else None
        if pool is None or known is None or known.host is not host:
            return  # no longer configured
        if result.answer is not None:
            known.answer = answer_word(result.answer)
            answer = result.answer
            known.flags = flag_words(answer.flags if isinstance(answer, NegotiationResponse) else 0)
        changed = result.certificate is not None and result.certificate != known.der
        if result.certificate is not None:
            known.tls, known.seen_at = result.tls, self._wall()
            if changed:
                self._replace(known, result.certificate)
        if changed or not known.heard:
            known.heard = True
            pool.unheard.discard(host.name)
            if not pool.unheard:
                self._judge(host.pool, pool)

    def of(self, host: Host) -> Known | None:
        """What is known of one host; None where it is not configured."""
        pool = self._pools.get(host.pool)
        return pool.known.get(host.name) if pool else None

    def hosts_that_show(self, sha256: str) -> list[str]:
        """The hosts with this certificate, as `pool/host`."""
        return [
            f"{known.host.pool}/{known.host.name}"
            for known in self._all()
            if known.certificate and known.certificate.sha256 == sha256
        ]

    def samples(self, host: Host) -> Iterator[Sample]:
        """What a scrape shows of a host."""
        known = self.of(host)
        return iter(()) if known is None else _samples(known)

    def pool_samples(self) -> Iterator[Sample]:
        """What a scrape shows of pools."""
        for name, pool in self._pools.items():
            if not pool.unheard:
                distinct = len({it.sha256 for it in pool.certificates()})
                yield Sample("pool_certificates_distinct", (name,), distinct)

    def routes(self) -> dict[str, Handler]:
        """The route of the admin endpoint."""

        async def certificates(request: Request) -> Answer:
            only(request.query, "pool", "host")
            wanted = [
                known.as_dict()
                for known in self._all()
                if is_meant(request.query, known.host.pool, known.host.name)
            ]
            return json_answer({"certificates": wanted})

        return {"/v1/certificates": certificates}

    def _all(self) -> Iterator[Known]:
        for pool in self._pools.values():
            yield from pool.known.values()

    def _replace(self, known: Known, der: bytes) -> None:
        old, new = known.certificate, read_certificate(der)
        known.certificate, known.der = new, der
        if old is None:
            return
        known.changes += 1
        rolled = rolled_by_itself(old, new, self._wall())
        fields = {
            "pool": known.host.pool,
            "host": known.host.name,
            "rolled": rolled,
            "old_sha256": old.sha256,
            "sha256": new.sha256,
            "old_subject": old.subject if old.subject != new.subject else None,
            "subject": new.subject,
            "self_signed": new.self_signed,
            "not_after": utc_text(new.not_after),
        }
        level = logging.INFO if rolled else logging.WARNING
        log.log(level, "host_certificate_changed", extra=fields)

    def _judge(self, name: str, pool: _Pool) -> None:
        certificates = pool.certificates()
        distinct = len({certificate.sha256 for certificate in certificates})
        all_names = sorted({each for certificate in certificates for each in certificate.names})
        some = ", ".join(all_names[:_SHOWN_NAMES])
        details = []
        if certificates and not names_in_common(certificates):
            details.append("no name is good for all hosts of the pool")
        if distinct > 1 and not pool.keeps_pins:
            details.append("affinity.key is none: the connections of one login may meet several")
        for detail in details:
            if detail in pool.told:
                continue
            fields = {
                "pool": name,
                "certificates": distinct,
                "names": some if len(all_names) <= _SHOWN_NAMES else f"{some}, …",
                "detail": detail,
            }
            log.warning("pool_certificates_differ", extra=fields)
        pool.told = frozenset(details)


def _samples(known: Known) -> Iterator[Sample]:
    labels = (known.host.pool, known.host.name)
    if known.answer is not None:
        info = (*labels, known.answer, " ".join(known.flags), known.tls or "")
        yield Sample("host_negotiation_info", info, 1)
    certificate = known.certificate
    if certificate is None:
        return
    yield Sample("host_certificate_changes_total", labels, known.changes)
    self_signed = "true" if certificate.self_signed else "false"
    yield Sample("host_certificate_info", (*labels, certificate.sha256, self_signed), 1)
    if certificate.not_after is not None:
        name = "host_certificate_not_after_timestamp_seconds"
        yield Sample(name, labels, certificate.not_after)
