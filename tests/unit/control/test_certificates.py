"""Certificates of every kind, made here: what is read of them, and that reading never raises."""

from __future__ import annotations

import datetime as dt
import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import replace

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from proxy.control.certificates import (
    Certificate,
    names_in_common,
    read_certificate,
    rolled_by_itself,
    utc_text,
)

START = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
END = dt.datetime(2026, 7, 1, 12, 30, tzinfo=dt.UTC)
DAY_S = 86400.0
EC_KEY = ec.generate_private_key(ec.SECP256R1())


def made(
    subject: str = "rdsh01.example",
    *,
    issuer: str | None = None,
    sans: Sequence[x509.GeneralName] = (),
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey = EC_KEY,
) -> bytes:
    """A certificate (DER), issued by itself where no `issuer` is named."""
    builder = (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer or subject)]))
        .public_key(key.public_key())
        .serial_number(7)
        .not_valid_before(START)
        .not_valid_after(END)
    )
    if sans:
        builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_a_certificate_says_who_until_when_and_with_which_key() -> None:
    sans = [
        x509.DNSName("RDSH01.example"),
        x509.DNSName("*.farm.example"),
        x509.IPAddress(ipaddress.ip_address("10.0.0.21")),
        x509.RFC822Name("admin@example"),
    ]
    der = made(issuer="Farm CA", sans=sans)
    assert read_certificate(der) == Certificate(
        sha256=hashlib.sha256(der).hexdigest(),
        sha1=hashlib.sha1(der, usedforsecurity=False).hexdigest(),
        subject="CN=rdsh01.example",
        issuer="CN=Farm CA",
        self_signed=False,
        names=("rdsh01.example", "*.farm.example", "10.0.0.21"),
        not_before=START.timestamp(),
        not_after=END.timestamp(),
        key="EC secp256r1",
    )


def test_a_certificate_without_alternative_names_is_good_for_its_common_name() -> None:
    read = read_certificate(made("RDSH02.Example"))
    assert (read.names, read.self_signed) == (("rdsh02.example",), True)
    assert read_certificate(made(sans=[x509.RFC822Name("a@example")])).names == ("rdsh01.example",)


def test_json_has_its_times_as_text() -> None:
    shown = read_certificate(made()).as_dict()
    assert (shown["not_before"], shown["not_after"]) == (
        "2026-01-01T00:00:00Z",
        "2026-07-01T12:30:00Z",
    )
    assert utc_text(None) is None


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (rsa.generate_private_key(65537, 2048), "RSA 2048"),
        (ec.generate_private_key(ec.SECP384R1()), "EC secp384r1"),
    ],
)
def test_the_key_is_told_with_its_size(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, said: str
) -> None:
    assert read_certificate(made(key=key)).key == said


@pytest.mark.parametrize(
    ("key", "said"),
    [
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
        (ed448.Ed448PrivateKey.generate(), "Ed448"),
        (dsa.generate_private_key(1024), "DSAPublicKey"),
    ],
)
def test_rare_keys_have_a_name_too(
    key: ed25519.Ed25519PrivateKey | ed448.Ed448PrivateKey | dsa.DSAPrivateKey, said: str
) -> None:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "x")])
    der = (
        x509.CertificateBuilder(name, name, key.public_key(), 7, START, END)
        .sign(EC_KEY, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    assert read_certificate(der).key == said


def test_a_negative_serial_is_no_fault() -> None:
    der = made()
    serial = b"\x02\x01\x07"  # INTEGER 7, the first one after the version
    assert serial in der[:20]
    read = read_certificate(der.replace(serial, b"\x02\x01\x87", 1))
    assert (read.subject, read.not_after) == ("CN=rdsh01.example", END.timestamp())


def test_what_cannot_be_read_leaves_the_rest() -> None:
    der = made(sans=[x509.DNSName("rdsh01.example")])
    broken = der.replace(b"\x82\x0erdsh01.example", b"\x82\x0e\xff\xfe\xfd\xfcrdsh.examp", 1)
    read = read_certificate(broken)
    assert (read.subject, read.names, read.key) == ("CN=rdsh01.example", (), "EC secp256r1")
    assert len(read.faults) == 1
    assert read.faults[0].startswith("names: ")


@given(st.binary(max_size=300) | st.integers(0, 500).map(lambda cut: made()[:cut]))
def test_reading_never_raises_and_always_tells_the_fingerprints(data: bytes) -> None:
    read = read_certificate(data)
    assert read.sha256 == hashlib.sha256(data).hexdigest()
    assert read.subject is not None or read.faults


@given(st.integers(0, 10_000), st.binary(min_size=1, max_size=4))
def test_bytes_that_flip_anywhere_raise_nothing(at: int, other: bytes) -> None:
    der = bytearray(made(sans=[x509.DNSName("rdsh01.example")]))
    at %= len(der)
    der[at : at + len(other)] = other
    read_certificate(bytes(der))


OLD = Certificate("a", "a", "CN=rdsh01", "CN=rdsh01", True, not_after=1000 * DAY_S)
NEW = replace(OLD, sha256="b", not_after=1200 * DAY_S)


@pytest.mark.parametrize(
    ("old", "new", "now_d", "rolled"),
    [
        (OLD, NEW, 500, True),  # it lasts longer
        (OLD, replace(NEW, not_after=999 * DAY_S), 980, True),  # the old one was near its end
        (OLD, replace(NEW, not_after=999 * DAY_S), 1010, True),  # or past it
        (OLD, replace(NEW, not_after=999 * DAY_S), 500, False),
        (OLD, replace(NEW, subject="CN=other"), 500, False),
        (OLD, replace(NEW, self_signed=False), 500, False),
        (replace(OLD, self_signed=None), NEW, 500, False),
        (replace(OLD, not_after=None), NEW, 500, False),
        (OLD, replace(NEW, not_after=None), 500, False),
    ],
)
def test_a_certificate_that_rolled_by_itself_is_told_apart(
    old: Certificate, new: Certificate, now_d: int, rolled: bool
) -> None:
    assert rolled_by_itself(old, new, now_d * DAY_S) is rolled


@pytest.mark.parametrize(
    ("names", "common"),
    [
        ([], ()),
        ([("a.example",)], ("a.example",)),
        ([("a.example", "farm.example"), ("farm.example", "b.example")], ("farm.example",)),
        ([("a.example",), ("b.example",)], ()),
        ([("a.example",), ("*.example",)], ("a.example",)),
        ([("*.example",), ("a.example",), ("a.example", "x.example")], ("a.example",)),
        ([("*.example",), ("*.example", "b.example")], ("*.example", "b.example")),
        ([("a.b.example",), ("*.example",)], ()),  # a wildcard stands for one label
        ([("a.example",), ()], ()),
    ],
)
def test_names_in_common_are_those_that_every_certificate_is_good_for(
    names: list[tuple[str, ...]], common: tuple[str, ...]
) -> None:
    certificates = [Certificate(str(n), "", names=each) for n, each in enumerate(names)]
    assert names_in_common(certificates) == common
    assert names_in_common(reversed(certificates)) == common
