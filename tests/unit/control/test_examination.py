"""What a visit to a host shows on a terminal."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from proxy.address import Address
from proxy.control.examination import Examination
from proxy.control.probe import ProbeResult
from proxy.errors import Cause
from proxy.lab.certificates import self_signed
from proxy.wire.x224 import NegotiationFailure, NegotiationResponse, Protocol

ADDRESS = Address("10.0.0.21", 3389)
NOW = 1_800_000_000.0


def told(result: ProbeResult, name: str = "10.0.0.21:3389", now: float = NOW) -> list[str]:
    return Examination(name, ADDRESS, result, now).as_text().splitlines()


def test_a_host_with_nla_shows_protocol_flags_and_certificate() -> None:
    certificate = self_signed("rdsh01")
    answer = NegotiationResponse(0x1F, Protocol.HYBRID)
    result = ProbeResult(True, None, "", 0.0123, answer, certificate.der, "TLSv1.2")
    lines = told(result, "rdsh01.example:3389")
    assert lines[0] == "host         rdsh01.example:3389 (10.0.0.21:3389)"
    assert "took         12.3 ms" in lines
    assert "selects      hybrid: NLA (CredSSP over TLS)" in lines
    flags = "extended_client_data dynvc_gfx restricted_admin redirected_authentication"
    assert f"flags        {flags}" in lines
    assert "tls          TLSv1.2" in lines
    assert "subject      CN=rdsh01" in lines
    assert "issuer       itself" in lines
    assert "not after    2124-01-01T00:00:00Z (35413 days left)" in lines
    assert f"sha256       {certificate.fingerprint}" in lines
    assert "not after    2124-01-01T00:00:00Z (0 days ago)" in told(result, now=4859740801.0)


def test_a_host_that_refuses_shows_the_code_and_its_name() -> None:
    result = ProbeResult(False, Cause.TLS_FAILED, "no TLS", 0.0, NegotiationFailure(3))
    lines = told(result)
    assert lines[0] == "host         10.0.0.21:3389"
    assert lines[1] == "fails        no TLS (cause tls_failed)"
    assert "refuses      failure code 3 SSL_CERT_NOT_ON_SERVER" in lines
    unknown = ProbeResult(False, Cause.TLS_FAILED, "", 0.0, NegotiationFailure(99))
    assert "refuses      failure code 99" in told(unknown)


def test_a_host_of_standard_security_and_one_of_a_protocol_to_come_say_so() -> None:
    plain = ProbeResult(True, None, "", 0.0, NegotiationResponse(0, 0))
    assert "selects      rdp: standard RDP security, no TLS" in told(plain)
    assert "flags        none" in told(plain)
    unheard_of = ProbeResult(True, None, "", 0.0, NegotiationResponse(0, 1 << 20))
    assert "selects      other: of no known kind" in told(unheard_of)


def test_a_certificate_that_cannot_be_read_says_so() -> None:
    result = ProbeResult(True, None, "", 0.0, NegotiationResponse(0, 1), b"no DER", "TLSv1.3")
    lines = told(result)
    for what in ("subject", "issuer", "not before", "not after", "key"):
        assert f"{what:<12} cannot be read" in lines
    assert lines[-1].startswith("fault        certificate: ")


def test_json_has_the_same() -> None:
    certificate = self_signed("rdsh01")
    answer = NegotiationResponse(1, Protocol.SSL)
    result = ProbeResult(True, None, "", 0.01, answer, certificate.der, "TLSv1.3")
    shown = json.loads(json.dumps(Examination("h", ADDRESS, result, NOW).as_dict()))
    assert shown["certificate"].pop("sha256") == certificate.fingerprint
    assert (shown["answer"], shown["flags"]) == ("ssl", ["extended_client_data"])
    failed = ProbeResult(False, Cause.REFUSED, "no connection", 0.0)
    shown = Examination("h", ADDRESS, failed, NOW).as_dict()
    assert (shown["ok"], shown["cause"], shown["certificate"]) == (False, "refused", None)


def test_a_certificate_without_a_subject_says_so_and_a_strange_one_stays_in_its_line() -> None:
    def shown(subject: x509.Name) -> list[str]:
        key = ec.generate_private_key(ec.SECP256R1())
        builder = x509.CertificateBuilder(subject, subject, key.public_key(), 1)
        began = datetime.fromtimestamp(NOW, UTC)
        made = builder.not_valid_before(began).not_valid_after(began + timedelta(days=1))
        der = made.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)
        return told(ProbeResult(True, None, "", 0.0, NegotiationResponse(0, 1), der, "TLSv1.3"))

    assert "subject      empty" in shown(x509.Name([]))
    name = x509.NameAttribute(NameOID.COMMON_NAME, "a\nsha256 00")
    assert r"subject      CN=a\nsha256 00" in shown(x509.Name([name]))
