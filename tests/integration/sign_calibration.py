"""How often the suspicion of a certificate mismatch is right, measured where the truth is known.

    python -m tests.integration.sign_calibration --users 100 --logins 4

The same seeded logins of the lab go through `rdp-proxy run` in three configurations. Two make it as
blind as a plain balancer: it knows hosts by other addresses than tokens name them by, ignores
tokens that it does not know, and pins nobody (`round_robin`) or by source alone (`sticky`). There
each login that ends at an unexpected certificate is to be suspected, and no other connection is.
The third is the product as it comes. The lab's clients know which certificate they met; what the
proxy suspects stands in its log.
"""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from proxy.address import Address
from proxy.lab.balancers import balance
from proxy.lab.farm import Farm
from proxy.lab.login import Failure, LoginResult
from proxy.lab.plan import PlannedLogin, make_plan
from tests.integration.running import RunningProxy, running

_BLIND = {"token": {"unknown_host": "ignore"}, "balance": "round_robin"}
CONTENDERS: dict[str, dict[str, Any]] = {
    "round_robin": _BLIND | {"affinity": {"key": "none"}},
    "sticky": _BLIND | {"affinity": {"key": "source"}},
    "rdp-proxy": {},
}
_EVERY_S = 0.12  # a login: the log writes ten suspicions a second
_THINK_S = 0.5  # between probe and login, so that several users are at it at one time


@dataclass(frozen=True, slots=True)
class Tally:
    """What one contender's proxy suspected, against what its clients met.

    Attributes:
        looks: connections on which a client saw the certificate that it expected, or any without
            an expectation.
        mismatches: those on which it saw another one, and left.
        hits: mismatches that were suspected.
        false_alarms: looks that were.
    """

    contender: str
    logins: int
    looks: int
    mismatches: int
    hits: int
    false_alarms: int


@asynccontextmanager
async def _before(farm: Farm, pool: dict[str, Any], directory: Path) -> AsyncIterator[RunningProxy]:
    """rdp-proxy before a farm; blind to tokens where the pool ignores unknown ones."""
    async with AsyncExitStack() as stack:
        hosts = []
        for host in farm.hosts.values():
            address = host.address
            if pool:  # another address of the host, which tokens do not name
                forward = balance("round_robin", Address("127.0.0.1", 0), [address])
                address = await stack.enter_async_context(forward)
            hosts.append({"name": host.name, "address": str(address)})
        overrides = {"pool": pool | {"hosts": hosts}}
        yield await stack.enter_async_context(running(farm, directory, **overrides))


async def tally(
    contender: str, directory: Path, *, users: int, logins: int, nat: float, seed: int = 1
) -> Tally:
    """Play the logins through one contender."""
    async with Farm.start(4, seed=seed) as farm:
        plan = make_plan(list(farm.hosts), users=users, logins=logins, nat=nat, seed=seed)
        for user, host in plan.sessions.items():
            farm.broker.place(user, host)
        async with _before(farm, CONTENDERS[contender], directory) as proxy:
            results = await _play(farm, proxy, plan.logins)
            await proxy.until_ended_by_metric(sum(len(result.legs) for result in results))
            counted = int(await proxy.metric("suspected_certificate_mismatch_total"))
            await proxy.stop()  # and all lines are written
            suspected = Counter(
                (line["client"].rpartition(":")[0], line["host"])
                for line in proxy.events("suspected_certificate_mismatch")
            )
    met: Counter[tuple[str | None, str | None]] = Counter()
    for result in results:
        if result.failure is Failure.UNEXPECTED_CERTIFICATE:
            met[result.source, result.legs[-1].reached] += 1
    hits = (suspected & met).total()
    # Of more than ten a second some are counted only: they may be mismatches, if there are more.
    hits += min(counted - suspected.total(), met.total() - hits)
    return Tally(
        contender,
        logins=len(results),
        looks=sum(len(result.legs) for result in results) - met.total(),
        mismatches=met.total(),
        hits=hits,
        false_alarms=counted - hits,
    )


async def _play(
    farm: Farm, proxy: RunningProxy, logins: Sequence[Sequence[PlannedLogin]]
) -> list[LoginResult]:
    """All users' first logins, then all second ones: a user does one thing after the other.

    So do those behind one address: of two who are redirected at one instant nobody outside could
    say which of them met what.
    """
    turns = defaultdict[str, asyncio.Lock](asyncio.Lock)
    results: list[LoginResult] = []

    async def come(login: PlannedLogin) -> None:
        client = farm.client(proxy.address, login.user, source=login.source, think_s=_THINK_S)
        async with turns[login.source]:
            results.append(await client.login())
            legs = sum(len(it.legs) for it in results if it.source == login.source)

            async def all_have_ended() -> bool:
                clients = [str(it["client"]) for it in proxy.events("connection_ended")]
                return sum(it.startswith(f"{login.source}:") for it in clients) == legs

            await proxy.until(all_have_ended)

    for round_ in zip(*logins, strict=True):
        async with asyncio.TaskGroup() as group:
            for login in round_:
                group.create_task(come(login))
                await asyncio.sleep(_EVERY_S)
    return results


async def _main(options: argparse.Namespace) -> None:
    say = sys.stdout.write
    say(f"{'':12}{'logins':>8}{'mismatches':>12}{'hits':>8}{'looks':>8}{'false alarms':>14}\n")
    for contender in CONTENDERS:
        with tempfile.TemporaryDirectory() as directory:
            told = await tally(
                contender,
                Path(directory),
                users=options.users,
                logins=options.logins,
                nat=options.nat,
                seed=options.seed,
            )
        say(f"{contender:12}{told.logins:8}{told.mismatches:12}{told.hits:8}")
        say(f"{told.looks:8}{told.false_alarms:14}\n")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--users", type=int, default=100)
    parser.add_argument("--logins", type=int, default=4, help="of each user")
    parser.add_argument("--nat", type=float, default=0.0, help="share of users behind one address")
    parser.add_argument("--seed", type=int, default=1)
    asyncio.run(_main(parser.parse_args()))
