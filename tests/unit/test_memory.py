"""A mapping that forgets."""

from __future__ import annotations

from proxy.memory import Memory


def test_what_was_set_longest_ago_is_forgotten_first() -> None:
    memory = Memory[str, int](2)
    for number, key in enumerate("abac"):
        memory[key] = number
    assert list(memory.items()) == [("a", 2), ("c", 3)]
    assert memory["a"] == memory.get("a") == 2
    memory["d"] = 4
    assert list(memory) == ["c", "d"], "to look something up does not keep it"
