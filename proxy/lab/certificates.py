"""Certificates: each lab host shows its own self-signed one, as Windows session hosts do.

EC P-256, because a farm makes one for each host at each start and RSA would take seconds.
"""

from __future__ import annotations

import datetime as dt
import hashlib
import ssl
import tempfile
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

_NOT_BEFORE = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
_NOT_AFTER = dt.datetime(2124, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True, slots=True)
class Certificate:
    """A host's certificate, and the TLS side that shows it."""

    der: bytes
    fingerprint: str
    server_context: ssl.SSLContext


def fingerprint(der: bytes) -> str:
    """SHA-256 of a DER certificate as hexadecimal text."""
    return hashlib.sha256(der).hexdigest()


def self_signed(name: str) -> Certificate:
    """A new key and certificate with `name` as common name."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(_NOT_BEFORE)
        .not_valid_after(_NOT_AFTER)
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name)]), critical=False)
        .sign(key, hashes.SHA256())
    )
    der = certificate.public_bytes(serialization.Encoding.DER)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.num_tickets = 0  # a lab client never resumes
    pem = certificate.public_bytes(serialization.Encoding.PEM) + key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    )
    # The ssl module loads keys from files only.
    with tempfile.TemporaryDirectory(prefix="rdp-lab-") as directory:
        path = Path(directory) / "host.pem"
        path.write_bytes(pem)
        context.load_cert_chain(path)
    return Certificate(der, fingerprint(der), context)


def client_context() -> ssl.SSLContext:
    """TLS of a lab client: it accepts any chain, for it compares certificates itself."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context
