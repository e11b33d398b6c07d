"""Everything that happens is told to everybody, and to health what clients meet."""

from __future__ import annotations

import inspect

from proxy.address import Address
from proxy.errors import Cause
from proxy.observers import Observers
from proxy.routing.signs import Sign
from proxy.server.record import ConnectionRecord, Observer
from tests.unit.server.stage import Observed


class Health:
    def __init__(self) -> None:
        self.told: list[str] = []

    def host_answered(self, pool: str, host: str) -> None:
        self.told.append(f"{pool}/{host} answered")

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        self.told.append(f"{pool}/{host} {cause}")


def test_everybody_is_told_everything() -> None:
    health, one, two = Health(), Observed(), Observed()
    both = Observers(health, one, two)  # type: ignore[arg-type]
    record = ConnectionRecord(1, "rdp", Address("::1", 1), Address("::1", 1), 0.0)
    both.connection_accepted(record)
    both.connection_placed(record)
    both.connection_ended(record)
    both.host_answered("p", "a")
    both.host_failed("p", "b", Cause.RESET)
    both.pin_moved("p", "token")
    both.pin_disagreed("p")
    both.store_failed()
    both.sign_seen(Sign.REDIRECT_LOOP, record, {"hops": 5})
    assert one == two
    assert all(vars(one).values())
    assert health.told == ["p/a answered", "p/b reset"]


def test_no_word_of_the_contract_is_left_out() -> None:
    words = {name for name, _ in inspect.getmembers(Observer, inspect.isfunction)}
    assert {word for word in words if not word.startswith("_")} <= vars(Observers).keys()
