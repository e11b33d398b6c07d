"""The broker's rules."""

from __future__ import annotations

from proxy.lab.broker import Broker


def broker(seed: int = 0) -> Broker:
    return Broker({"desktops": ["a1", "a2", "a3"], "apps": ["b1", "b2"]}, seed=seed)


def test_a_user_is_sent_to_the_host_of_his_session() -> None:
    it = broker()
    it.place("alice", "a3")
    assert it.arrive("alice", "a1") == "a3"
    assert it.arrive("ALICE", "a3") == "a3"


def test_a_new_user_stays_where_no_host_has_fewer_sessions() -> None:
    it = broker()
    assert it.arrive("alice", "a2") == "a2"
    assert it.session_of("alice", "desktops") == "a2"


def test_a_new_user_goes_to_the_host_with_the_fewest_sessions() -> None:
    it = broker()
    it.place("u1", "a1")
    it.place("u2", "a2")
    assert it.arrive("alice", "a1") == "a3"


def test_collections_know_nothing_of_each_other() -> None:
    it = broker()
    it.place("alice", "a3")
    assert it.arrive("alice", "b2") == "b2"
    assert it.session_of("alice", "desktops") == "a3"


def test_a_lost_host_takes_its_sessions_along_and_gets_nobody() -> None:
    it = broker()
    it.place("alice", "a3")
    it.place("u1", "a1")
    it.lose("a3")
    assert it.arrive("alice", "a1") == "a2"
    it.regain("a3")
    assert it.arrive("bob", "a1") == "a3"


def test_a_user_whom_a_lost_host_takes_in_stays_where_all_are_lost() -> None:
    it = Broker({"desktops": ["a1"]}, seed=0)
    it.lose("a1")
    assert it.arrive("alice", "a1") == "a1"


def test_ties_fall_alike_for_the_same_seed_and_after_a_reset() -> None:
    def placed(it: Broker) -> list[str]:
        it.place("first", "a1")
        return [it.arrive(f"user{n}", "a1") for n in range(12)]

    it = broker(seed=5)
    first = placed(it)
    it.reset()
    assert placed(it) == first == placed(broker(seed=5))
    assert it.sessions_on("a1") + it.sessions_on("a2") + it.sessions_on("a3") == 13
