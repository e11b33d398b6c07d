"""Which host is behind an address or a certificate."""

from __future__ import annotations

from proxy.address import Address
from proxy.lab.certificates import self_signed
from proxy.lab.directory import Directory, HostCard

CARD = HostCard("rdsh01", Address("127.77.0.11", 4000), self_signed("rdsh01"))
STRANGER = Address("127.77.0.99", 4000)


def test_a_host_is_found_by_each_of_its_marks() -> None:
    directory = Directory([CARD])
    assert directory.name_at(CARD.address) == "rdsh01"
    assert directory.showing(CARD.certificate.fingerprint) == "rdsh01"
    assert directory.dial_address("127.77.0.11", 3389) == CARD.address


def test_strangers_have_no_name_and_the_port_that_was_dialled_before() -> None:
    directory = Directory([CARD])
    assert directory.name_at(STRANGER) is None
    assert directory.name_at(None) is None
    assert directory.showing("00") is None
    assert directory.dial_address("127.77.0.99", 3389) == Address("127.77.0.99", 3389)
