"""What a node remembers of the table."""

from __future__ import annotations

from proxy.affinity.memory import Recollection
from proxy.affinity.store import PinKey


def key(number: int) -> PinKey:
    return PinKey("desktops", f"source:{number}")


def test_the_last_host_of_a_key_is_known_until_it_is_forgotten() -> None:
    memory = Recollection()
    assert memory.host_of(key(1)) is None
    memory.note(key(1), "a")
    memory.note(key(1), "b")
    assert memory.host_of(key(1)) == "b"
    memory.forget(key(1))
    memory.forget(key(2))
    assert memory.host_of(key(1)) is None


def test_a_full_memory_forgets_what_was_longest_unseen() -> None:
    memory = Recollection(keys_max=2)
    for number in (1, 2, 1, 3):
        memory.note(key(number), "a")
    assert [memory.host_of(key(number)) for number in (1, 2, 3)] == ["a", None, "a"]
