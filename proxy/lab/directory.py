"""Directory: which host is behind an address or a certificate. The lab's view from above.

A real client does not have it. The lab's client looks in only to name hosts in its report and to
tell a wrong host from the right one where no certificate says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from proxy.address import Address
from proxy.lab.certificates import Certificate


@dataclass(frozen=True, slots=True)
class HostCard:
    """What the others know of a host."""

    name: str
    address: Address
    certificate: Certificate


class Directory:
    """The cards of a farm's hosts."""

    def __init__(self, cards: Iterable[HostCard]) -> None:
        self.cards = {card.name: card for card in cards}
        self._by_address = {card.address: card for card in self.cards.values()}
        self._by_ip = {card.address.host: card for card in self.cards.values()}
        self._by_fingerprint = {card.certificate.fingerprint: card for card in self.cards.values()}

    def name_at(self, address: Address | None) -> str | None:
        """Name of the host that listens on an address."""
        card = self._by_address.get(address) if address else None
        return card.name if card else None

    def showing(self, fingerprint: str) -> str | None:
        """Name of the host that shows a certificate."""
        card = self._by_fingerprint.get(fingerprint)
        return card.name if card else None

    def dial_address(self, ip: str, default_port: int) -> Address:
        """Where to dial an address that came without a port, as redirections by address do."""
        card = self._by_ip.get(ip)
        return card.address if card else Address(ip, default_port)
