"""Balancers as processes: a start that fails is told with the reason."""

from __future__ import annotations

import socket

import pytest

from proxy.lab.contenders import ContenderError, plain, rdp_proxy
from proxy.lab.farm import Farm


async def test_a_plain_balancer_that_does_not_start_says_why() -> None:
    async with Farm.start(hosts=1) as farm:
        with pytest.raises(ContenderError, match="KeyError: 'no_such_kind'"):
            async with plain("no_such_kind", farm):
                pass


async def test_a_proxy_that_cannot_bind_its_port_says_why() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        async with Farm.start(hosts=1) as farm:
            with pytest.raises(ContenderError, match=r"ended with code[\s\S]*in use"):
                async with rdp_proxy(farm, taken.getsockname()[1]):
                    pass
