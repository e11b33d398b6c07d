"""Hosts' certificates."""

from __future__ import annotations

from cryptography import x509
from cryptography.x509.oid import NameOID

from proxy.lab.certificates import fingerprint, self_signed


def test_a_certificate_names_its_host_and_signs_itself() -> None:
    certificate = x509.load_der_x509_certificate(self_signed("rdsh07").der)
    (name,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert name.value == "rdsh07"
    certificate.verify_directly_issued_by(certificate)


def test_no_two_hosts_have_the_same_certificate_even_under_one_name() -> None:
    one, other = self_signed("rdsh01"), self_signed("rdsh01")
    assert one.fingerprint != other.fingerprint
    assert one.fingerprint == fingerprint(one.der)
