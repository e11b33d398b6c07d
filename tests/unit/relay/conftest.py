from __future__ import annotations

from collections.abc import Iterator

import pytest

from proxy.errors import Cause, Side
from tests.unit.relay.stepper import Stepper


@pytest.fixture
def pump() -> Iterator[Stepper]:
    pump = Stepper()
    yield pump
    for connection in list(pump.connections.values()):
        pump.close(connection, Side.LOCAL, Cause.STOPPED)
    pump._bury()
    pump._epoll.close()
