"""What a user sees through the proxy is what he sees without it, to the last pixel."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from pathlib import Path

import pytest

from proxy.address import Address
from tests.interop.clients import Computer
from tests.interop.display import Display, Picture, display
from tests.interop.programs import Program
from tests.interop.xrdp_farm import proxy_before, two_xrdp_hosts
from tests.patience import PATIENCE_S

STILL_S = 1.0
LEAST_COLOURS = 100  # the logo of a login screen alone has more

Client = Callable[[Computer, Address, Display], AbstractAsyncContextManager[Program]]


def freerdp(
    computer: Computer, address: Address, screen: Display
) -> AbstractAsyncContextManager[Program]:
    return computer.freerdp(address, "/u:alice", "/cert:tofu", display=screen)


def rdesktop(
    computer: Computer, address: Address, screen: Display
) -> AbstractAsyncContextManager[Program]:
    return computer.rdesktop(address, display=screen, trust=True)


async def come_to_rest(*screens: Display) -> list[Picture]:
    """Wait until every screen shows something, nothing has moved for a while, and the first two
    are alike: a picture may also rest half drawn, where the machine is busy. After a time, as they
    are then."""
    pictures: list[Picture] = []
    deadline = time.monotonic() + PATIENCE_S
    still_since = time.monotonic()
    while time.monotonic() - still_since < STILL_S or pictures[0] != pictures[1]:
        now = [screen.picture() for screen in screens]
        if now != pictures or min(picture.colours for picture in now) < LEAST_COLOURS:
            pictures, still_since = now, time.monotonic()
        if time.monotonic() > deadline:
            break
        await asyncio.sleep(0.1)
    return pictures


@pytest.mark.parametrize("client", [freerdp, rdesktop])
async def test_the_login_screen_is_the_same_as_without_the_proxy(
    tmp_path: Path, client: Client
) -> None:
    async with (
        two_xrdp_hosts(tmp_path) as hosts,
        proxy_before(hosts, tmp_path) as proxy,
        display(tmp_path / "through") as through,
        display(tmp_path / "direct") as direct,
        display(tmp_path / "elsewhere") as elsewhere,
        client(Computer("through", tmp_path / "home1"), proxy.address, through) as program,
    ):

        def met() -> list[str]:
            return [host.name for host in hosts if "through" in host.computers]

        await program.until("the host knows the computer", lambda: bool(met()))
        here, other = sorted(hosts, key=lambda host: host.name not in met())
        async with (
            client(Computer("direct", tmp_path / "home2"), here.address, direct),
            client(Computer("elsewhere", tmp_path / "home3"), other.address, elsewhere),
        ):
            seen, expected, another = await come_to_rest(through, direct, elsewhere)
        pictures = [
            picture.save(tmp_path / f"{name}.png")
            for name, picture in (("seen", seen), ("expected", expected), ("another", another))
        ]
        assert min(picture.colours for picture in (seen, another)) >= LEAST_COLOURS, pictures
        assert seen == expected, pictures
        assert seen != another, pictures  # a comparison that can tell hosts apart
