"""Examination: what one visit to a session host has shown, for whoever asked on a terminal.

`rdp-proxy probe ADDRESS` does what a health check with `check: tls` does, from wherever it runs:
no configuration, no running proxy, no credentials.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from proxy.address import Address
from proxy.control.certificates import Certificate, read_certificate, utc_text
from proxy.control.probe import ProbeResult
from proxy.wire.x224 import (
    FailureCode,
    NegotiationFailure,
    NegotiationResponse,
    answer_word,
    flag_words,
)

_SELECTED = {
    "rdp": "standard RDP security, no TLS",
    "ssl": "TLS",
    "hybrid": "NLA (CredSSP over TLS)",
    "hybrid_ex": "NLA (CredSSP over TLS, with early user authorization)",
}


@dataclass(frozen=True, slots=True)
class Examination:
    """A probe of `address`, given to the command as `name`. `now` is in seconds since the epoch."""

    name: str
    address: Address
    result: ProbeResult
    now: float

    @property
    def certificate(self) -> Certificate | None:
        der = self.result.certificate
        return read_certificate(der) if der else None

    def as_dict(self) -> dict[str, object]:
        """For JSON."""
        result, answer = self.result, self.result.answer
        certificate = self.certificate
        return {
            "name": self.name,
            "address": str(self.address),
            "ok": result.ok,
            "cause": result.cause,
            "detail": result.detail or None,
            "seconds": round(result.seconds, 4),
            "answer": answer_word(answer) if answer else None,
            "flags": list(self._flags()),
            "tls": result.tls,
            "certificate": certificate.as_dict() if certificate else None,
        }

    def as_text(self) -> str:
        """For a person, a line each."""
        lines = ((key, value.replace("\n", "\\n")) for key, value in self._lines())
        return "\n".join(f"{key:<12} {value}" for key, value in lines)

    def _flags(self) -> tuple[str, ...]:
        answer = self.result.answer
        return flag_words(answer.flags) if isinstance(answer, NegotiationResponse) else ()

    def _lines(self) -> Iterator[tuple[str, str]]:
        result, answer = self.result, self.result.answer
        where = str(self.address)
        yield "host", where if self.name == where else f"{self.name} ({where})"
        if not result.ok:
            yield "fails", f"{result.detail or 'no reason known'} (cause {result.cause})"
        yield "took", f"{result.seconds * 1000:.1f} ms"
        if isinstance(answer, NegotiationFailure):
            known = [code.name for code in FailureCode if code == answer.code]
            yield "refuses", " ".join(["failure code", str(answer.code), *known])
        elif answer is not None:
            word = answer_word(answer)
            yield "selects", f"{word}: {_SELECTED.get(word, 'of no known kind')}"
            yield "flags", " ".join(self._flags()) or "none"
        if result.tls is not None:
            yield "tls", result.tls
        if (certificate := self.certificate) is not None:
            yield from self._of(certificate)

    def _of(self, certificate: Certificate) -> Iterator[tuple[str, str]]:
        unknown = "cannot be read"
        issuer = "itself" if certificate.self_signed else certificate.issuer
        yield "subject", unknown if certificate.subject is None else certificate.subject or "empty"
        yield "names", " ".join(certificate.names) or "none"
        yield "issuer", unknown if issuer is None else issuer or "empty"
        yield "not before", utc_text(certificate.not_before) or unknown
        yield "not after", self._end(certificate.not_after) or unknown
        yield "key", certificate.key or unknown
        yield "sha256", certificate.sha256
        yield "sha1", f"{certificate.sha1} (Windows: thumbprint, SSLCertificateSHA1Hash)"
        for fault in certificate.faults:
            yield "fault", fault

    def _end(self, not_after: float | None) -> str | None:
        if not_after is None:
            return None
        days = int(abs(not_after - self.now) // 86400)
        return f"{utc_text(not_after)} ({days} days {'left' if not_after > self.now else 'ago'})"
