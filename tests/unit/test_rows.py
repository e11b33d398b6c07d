"""Rows for people: plain where all is as configured, in words where it is not."""

from __future__ import annotations

from typing import Any

import pytest

from proxy import rows

PLAIN: dict[str, Any] = {
    "pool": "desktops",
    "host": "rdsh01",
    "address": "10.0.0.21:3389",
    "configured": True,
    "up": True,
    "cause": None,
    "detail": None,
    "no_new_clients": None,
    "will": "ready",
    "will_since_s": None,
    "pins": None,
    "deadline_s": None,
    "weight": 100,
    "configured_weight": 100,
    "share": 100.0,
    "backup": False,
    "connections": 3,
    "max_connections": None,
    "waiting": 0,
    "agent": None,
    "short_lived": False,
}
AGENT = {"will": "ready", "down": False, "percent": 75, "max_connections": None, "detail": ""}


def test_a_host_as_configured_has_plain_cells() -> None:
    assert rows.host(PLAIN) == {
        "pool": "desktops",
        "host": "rdsh01",
        "address": "10.0.0.21:3389",
        "configured": True,
        "up": True,
        "no_new_clients": None,
        "will": "ready",
        "since": None,
        "weight": 100,
        "connections": 3,
        "cause": None,
        "agent": None,
    }


@pytest.mark.parametrize(
    ("column", "said", "shown"),
    [
        ("no_new_clients", {"no_new_clients": "full"}, "full"),
        ("cause", {"cause": "refused"}, "refused"),
        ("cause", {"cause": "reset", "detail": "after TLS"}, "reset: after TLS"),
        ("will", {"will": "drain", "pins": "keep"}, "drain"),
        ("will", {"will": "drain", "pins": "live"}, "drain, pins: live"),
        ("since", {"will_since_s": 61.0}, "1 min 1 s ago"),
        ("since", {"will_since_s": 3600.0, "deadline_s": 7200.0}, "1 h ago, 2 h left"),
        ("since", {"will_since_s": 3600.0, "deadline_s": -60.0}, "1 h ago, 1 min over"),
        ("weight", {"weight": 30, "share": 30.0}, "30, not 100"),
        ("weight", {"share": 5.2}, "100, now 5"),
        ("weight", {"weight": 30, "share": 15.0}, "30, not 100, now 15"),
        ("weight", {"backup": True}, "100, backup"),
        ("connections", {"max_connections": 40}, "3 of 40"),
        ("connections", {"max_connections": 3, "waiting": 2}, "3 of 3, 2 clients waiting"),
        ("cause", {"cause": "refused", "short_lived": True}, "refused"),
        ("cause", {"short_lived": True}, "nobody stays"),
        ("agent", {"agent": AGENT}, "ready 75%"),
        (
            "agent",
            {"agent": AGENT | {"down": True, "max_connections": 40, "detail": "12 sessions"}},
            "ready down 75% maxconn:40 12 sessions",
        ),
    ],
)
def test_what_is_not_as_configured_is_told(column: str, said: dict[str, Any], shown: str) -> None:
    assert rows.host(PLAIN | said)[column] == shown


def test_a_certificate_has_its_names_and_the_beginning_of_its_fingerprint() -> None:
    known = {"subject": "CN=farm", "names": ["a", "b"], "sha256": "0123456789abcdef"}
    row = rows.certificate({"host": "rdsh01", "certificate": known})
    assert (row["subject"], row["names"], row["sha256"]) == ("CN=farm", "a b", "0123456789ab")
    assert rows.certificate({"certificate": known | {"names": []}})["names"] is None
    assert rows.certificate({"host": "rdsh01", "certificate": None}).get("subject") is None


def test_times_are_in_words() -> None:
    assert rows.connection({"duration_s": 61.5})["duration"] == "1 min 2 s"
    pin = rows.pin({"expires_in_s": 7200.0, "touched_s_ago": 3.2})
    assert (pin["expires_in"], pin["touched"]) == ("2 h", "3 s ago")
    assert rows.pin({"expires_in_s": None, "touched_s_ago": 0.0})["expires_in"] == "never"
