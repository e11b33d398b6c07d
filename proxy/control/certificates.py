"""Certificates: what a session host's X.509 certificate says. The only door to cryptography.

What hosts show is read, never judged: self-signed by default, expired at times, and made by
programs of all ages. So reading never raises. What cannot be read (a broken extension, a name in no
known encoding, a key of an unknown kind, or all of it) is None or empty, and `faults` says so; the
fingerprints are always there.

Self-signed means issued by itself: issuer and subject are the same, as in the certificates that
Windows makes for Remote Desktop. The signature is not checked.
"""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, rsa
from cryptography.x509.oid import NameOID

S = TypeVar("S")
T = TypeVar("T")

_NEAR_THE_END_S = 30 * 86400.0  # Windows replaces its own some weeks before they end


@dataclass(frozen=True, slots=True)
class Certificate:
    """One certificate. Times are seconds since the epoch.

    Attributes:
        sha256, sha1: fingerprints as hexadecimal text; SHA-1 is what Windows calls the thumbprint
            (`SSLCertificateSHA1Hash`).
        subject, issuer: as RFC 4514 writes them.
        names: the DNS names and IP addresses that it is good for, in lower case; the subject's
            common name where it lists none.
        key: kind and size of the public key, such as `RSA 2048`.
        faults: what could not be read.
    """

    sha256: str
    sha1: str
    subject: str | None = None
    issuer: str | None = None
    self_signed: bool | None = None
    names: tuple[str, ...] = ()
    not_before: float | None = None
    not_after: float | None = None
    key: str | None = None
    faults: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """For JSON; times as ISO 8601."""
        return {
            "sha256": self.sha256,
            "sha1": self.sha1,
            "subject": self.subject,
            "names": list(self.names),
            "issuer": self.issuer,
            "self_signed": self.self_signed,
            "not_before": utc_text(self.not_before),
            "not_after": utc_text(self.not_after),
            "key": self.key,
            "faults": list(self.faults),
        }


def read_certificate(der: bytes) -> Certificate:
    """What a certificate (DER) says. Never raises."""
    sha256 = hashlib.sha256(der).hexdigest()
    sha1 = hashlib.sha1(der, usedforsecurity=False).hexdigest()
    faults: list[str] = []

    def part(what: str, of: S, read: Callable[[S], T]) -> T | None:
        try:
            return read(of)
        except Exception as error:  # noqa: BLE001  (whatever a stranger's bytes provoke)
            faults.append(f"{what}: {str(error) or type(error).__name__}")
            return None

    with warnings.catch_warnings():  # negative serials and other sins of old programs
        warnings.simplefilter("ignore")
        known = part("certificate", der, x509.load_der_x509_certificate)
        if known is None:
            return Certificate(sha256, sha1, faults=tuple(faults))
        return Certificate(
            sha256,
            sha1,
            part("subject", known, lambda it: it.subject.rfc4514_string()),
            part("issuer", known, lambda it: it.issuer.rfc4514_string()),
            part("issuer", known, lambda it: it.subject.public_bytes() == it.issuer.public_bytes()),
            part("names", known, _names) or (),
            part("not_before", known, lambda it: it.not_valid_before_utc.timestamp()),
            part("not_after", known, lambda it: it.not_valid_after_utc.timestamp()),
            part("key", known, _key),
            tuple(dict.fromkeys(faults)),
        )


def utc_text(seconds: float | None) -> str | None:
    """`2026-11-26T12:00:00Z`."""
    if seconds is None:
        return None
    return datetime.fromtimestamp(seconds, UTC).isoformat().replace("+00:00", "Z")


def rolled_by_itself(old: Certificate, new: Certificate, now: float) -> bool:
    """Whether a host has replaced its own certificate, as Windows does every half a year.

    Same subject, self-signed before and after; and the old one was near its end, or the new one
    lasts longer.
    """
    if not (old.self_signed and new.self_signed) or old.subject != new.subject:
        return False
    if old.not_after is None or new.not_after is None:
        return False
    return old.not_after - now < _NEAR_THE_END_S or new.not_after > old.not_after


def names_in_common(certificates: Iterable[Certificate]) -> tuple[str, ...]:
    """The names that all of these are good for; a wildcard covers one label.

    Certificates whose names could not be read share none.
    """
    common: set[str] | None = None
    for names in {frozenset(certificate.names) for certificate in certificates}:
        if common is None:
            common = set(names)
        else:
            common = {name for name in common if _covers(names, name)} | {
                name for name in names if _covers(common, name)
            }
        if not common:
            break
    return tuple(sorted(common or ()))


def _covers(names: Iterable[str], name: str) -> bool:
    first, _, rest = name.partition(".")
    return name in names or bool(first and rest and f"*.{rest}" in names)


def _names(certificate: x509.Certificate) -> tuple[str, ...]:
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        names = [
            *listed.get_values_for_type(x509.DNSName),
            *map(str, listed.get_values_for_type(x509.IPAddress)),
        ]
    except x509.ExtensionNotFound:
        names = []
    if not names:
        common = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
        names = [str(attribute.value) for attribute in common]
    return tuple(dict.fromkeys(name.lower() for name in names))


def _key(certificate: x509.Certificate) -> str:
    match certificate.public_key():
        case rsa.RSAPublicKey(key_size=bits):
            return f"RSA {bits}"
        case ec.EllipticCurvePublicKey(curve=curve):
            return f"EC {curve.name}"
        case ed25519.Ed25519PublicKey():
            return "Ed25519"
        case ed448.Ed448PublicKey():
            return "Ed448"
        case other:
            return type(other).__name__
