"""Affinity keys for each kind of deployment."""

from __future__ import annotations

from ipaddress import ip_address, ip_network

import pytest

from proxy.routing.key import NO_KEY, AffinityKey, affinity_key, normal_user
from proxy.settings import AffinityKeyKind, PoolAffinity

ALICE = ip_address("203.0.113.7")
GATEWAY = ip_address("10.9.0.1")
V6 = ip_address("2001:db8:0:1:aaaa::7")
SHARED = (ip_network("10.9.0.0/24"),)


def key_of(
    kind: str, source: str | None = None, user: str | None = None, **more: int
) -> AffinityKey:
    affinity = PoolAffinity(key=AffinityKeyKind(kind), shared_sources=SHARED, **more)
    return affinity_key(affinity, ip_address(source) if source else ALICE, user)


@pytest.mark.parametrize(
    ("kind", "user", "primary", "latest"),
    [
        ("source", None, "source:203.0.113.7", None),
        ("source", "alice", "source:203.0.113.7", None),
        ("user", "Alice ", "user:alice", "source:203.0.113.7"),
        ("user", None, "source:203.0.113.7", None),
        (
            "source_and_user",
            "alice",
            "source:203.0.113.7 user:alice",
            "source:203.0.113.7",
        ),
        ("source_and_user", None, "source:203.0.113.7", None),
        ("none", "alice", None, None),
    ],
)
def test_the_kind_of_key_says_what_counts(
    kind: str, user: str | None, primary: str | None, latest: str | None
) -> None:
    key = key_of(kind, user=user)
    assert (key.primary, key.latest) == (primary, latest)


@pytest.mark.parametrize("kind", ["source", "user", "source_and_user"])
def test_a_shared_source_is_never_a_key_by_itself(kind: str) -> None:
    assert key_of(kind, str(GATEWAY)) == NO_KEY
    named = key_of(kind, str(GATEWAY), "alice")
    assert named.primary is not None
    assert named.primary.endswith("user:alice")
    assert named.latest is None


def test_a_user_has_an_entry_of_his_own_beside_that_of_his_source() -> None:
    key = key_of("source", user="Alice")
    own = "source:203.0.113.7 user:alice"
    assert key == AffinityKey("source:203.0.113.7", own=own)
    assert key.entries == ("source:203.0.113.7", own)
    assert key.by_own() == AffinityKey(own)
    assert key_of("source_and_user", user="alice").own is None
    assert NO_KEY.entries == ()


@pytest.mark.parametrize("user", ["CORP\\Jaso", "CONTOSOLT", "elizabeth"])
def test_a_name_that_may_be_cut_is_never_a_key_by_itself(user: str) -> None:
    name = user.casefold()
    key = key_of("user", user=user)
    pair = f"source:203.0.113.7 user:{name}"
    assert key == AffinityKey(pair, "source:203.0.113.7", decided=f"user:{name}")
    assert key.entries == (pair, "source:203.0.113.7")
    assert key.by_decision() == AffinityKey(f"user:{name}", "source:203.0.113.7")
    shared = key_of("user", str(GATEWAY), user)
    assert (shared.latest, shared.decided) == (None, f"user:{name}")


@pytest.mark.parametrize("user", ["jason", "CORP\\jason", "jason@corp.example", "jason@cor"])
def test_a_user_is_the_same_however_he_writes_his_name(user: str) -> None:
    assert key_of("user", user=user).primary == "user:jason"


def test_an_ipv6_client_is_known_by_its_network() -> None:
    assert key_of("source", str(V6)).primary == "source:2001:db8:0:1::/64"


def test_prefixes_are_the_operators() -> None:
    assert key_of("source", ipv4_prefix=24).primary == "source:203.0.113.0/24"
    assert key_of("source", str(V6), ipv6_prefix=128).primary == f"source:{V6}"
    assert key_of("source", "::1", ipv6_prefix=64).primary == "source:::/64"


@pytest.mark.parametrize(
    ("raw", "normal"),
    [
        ("JOHN-PC  ", "john-pc"),
        ("CORP\\Jaso", "corp\\jaso"),  # nine characters: the rest of the name may be cut off
        ("AD\\Bob", "bob"),
        ("CORP\\jason.bourne", "jason.bourne"),
        ("Bob@corp.example", "bob"),
        ("bob@corp.", "bob"),
        ("CONTOSOL\\", None),
        ("@corp", None),
        ("  ", None),
        ("", None),
        (None, None),
    ],
)
def test_user_names_have_one_spelling(raw: str | None, normal: str | None) -> None:
    assert normal_user(raw) == normal
