"""What `--serve` tells of each connection."""

from __future__ import annotations

from proxy.address import Address
from proxy.lab.serve import words
from proxy.lab.session_host import Stage, Visit


def test_a_redirection_is_told_with_its_target() -> None:
    visit = Visit("rdsh01", Address("127.0.0.1", 5), "00", Stage.REDIRECTED, user="alice")
    visit.line, visit.redirected_to = b"Cookie: mstshash=alice", "rdsh04"
    assert words(visit) == "rdsh01: alice (Cookie: mstshash=alice) redirected, sent on to rdsh04"


def test_a_session_is_told_with_its_host() -> None:
    visit = Visit("rdsh04", Address("127.0.0.1", 5), "00", Stage.LOGGED_IN, user="alice")
    assert words(visit) == "rdsh04: alice (no cookie) logged in"
