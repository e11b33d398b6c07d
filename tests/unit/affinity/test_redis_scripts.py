"""What goes to Redis and what comes back. What the scripts do is held by the contract tests."""

from __future__ import annotations

from hashlib import sha1

from proxy.affinity.redis_scripts import CLAIM, MOVE, Script, milliseconds, read_pin
from proxy.affinity.store import NEVER, Pin


def test_a_script_is_known_by_the_digest_of_its_source() -> None:
    digest = sha1(CLAIM.source, usedforsecurity=False).hexdigest().encode()
    assert CLAIM.call(b"key", b"", b"a") == ("EVALSHA", digest, 1, b"key", b"", b"a")
    assert CLAIM.teach(b"key", b"", b"a") == ("EVAL", CLAIM.source, 1, b"key", b"", b"a")


def test_scripts_differ_and_share_their_beginning() -> None:
    assert CLAIM.sha != MOVE.sha
    assert CLAIM.source.removesuffix(CLAIM.body.encode()) == Script("").source


def test_times_are_whole_milliseconds_on_the_way_there_and_seconds_on_the_way_back() -> None:
    assert (milliseconds(1_800_000_000.1234), milliseconds(0.0)) == (b"1800000000123", b"0")
    assert read_pin([b"a", b"1800000000123", b"1500"]) == Pin("a", 1_800_000_000.123, 1.5)


def test_a_pin_may_never_expire() -> None:
    assert milliseconds(NEVER) == b"inf"
    assert read_pin([b"a", b"inf", b"0"]).expires_at == NEVER
