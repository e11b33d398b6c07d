"""A login in words."""

from __future__ import annotations

import pytest

from proxy.address import Address
from proxy.lab.login import Failure, Leg, LoginResult, Step

HERE = Address("127.0.0.1", 3389)


def test_a_login_that_succeeds_is_told_to_its_end() -> None:
    result = LoginResult("alice", "127.1.1.1", host="rdsh02")
    result.legs = [
        Leg(Step.PROBE, HERE, b"Cookie: mstshash=alice", None, reached="rdsh01"),
        Leg(Step.REDIRECTED, HERE, b"Cookie: msts=1.2.0", "rdsh02", reached="rdsh02"),
    ]
    assert result.ok
    assert result.words() == [
        "alice logs in from 127.1.1.1.",
        'The probe with "Cookie: mstshash=alice" reaches rdsh01.',
        "The redirected connection with token for rdsh02 reaches rdsh02.",
        "The session is active on rdsh02.",
    ]


@pytest.mark.parametrize("failure", Failure)
def test_each_failure_has_its_own_words(failure: Failure) -> None:
    ends = {LoginResult("alice", failure=one, detail="why").words()[-1] for one in Failure}
    assert len(ends) == len(Failure)
    told = LoginResult("alice", failure=failure, detail="why").words()
    assert told[0] == "alice logs in."
    assert told[-1].endswith("(why).")
