"""The inventory: what it keeps of each host, what it tells of changes, and what it shows."""

from __future__ import annotations

import json
import logging
from itertools import chain
from typing import Any

import pytest

from proxy.control.http import Request
from proxy.control.inventory import Inventory
from proxy.control.probe import ProbeResult
from proxy.errors import Cause
from proxy.lab.certificates import Certificate, self_signed
from proxy.routing.pool import Host, Pool
from proxy.settings import AffinityKeyKind, HostSettings, PoolSettings
from proxy.wire.x224 import NegotiationFailure, NegotiationResponse, Protocol
from tests.unit.control.farm import farm

NOW = 1_800_000_000.0  # in January 2027
REFUSED = ProbeResult(False, Cause.REFUSED, "", 0.0)

Event = dict[str, Any]


def showing(certificate: Certificate, protocol: Protocol = Protocol.HYBRID) -> ProbeResult:
    answer = NegotiationResponse(0x1F, protocol)
    return ProbeResult(True, None, "", 0.01, answer, certificate.der, "TLSv1.3")


class Farm:
    """An inventory of the farm's pools, and what it tells."""

    def __init__(self, caplog: pytest.LogCaptureFixture) -> None:
        self.pools = {pool.name: Pool(pool) for pool in farm().pools}
        self.inventory = Inventory(self.pools.values(), lambda: NOW)
        self._caplog = caplog
        caplog.set_level(logging.INFO, "proxy")

    def host(self, name: str) -> Host:
        return next(h for pool in self.pools.values() for h in pool.hosts if h.name == name)

    def shows(self, name: str, certificate: Certificate) -> None:
        self.inventory.checked(self.host(name), showing(certificate))

    def events(self) -> list[Event]:
        """What was told since this was asked last."""
        told = [vars(record) | {"event": record.message} for record in self._caplog.records]
        self._caplog.clear()
        return told

    def samples(self) -> dict[tuple[str, ...], float]:
        hosts = (host for pool in self.pools.values() for host in pool.hosts)
        told = chain(*map(self.inventory.samples, hosts), self.inventory.pool_samples())
        return {(it.name, *it.labels): it.value for it in told}

    async def shown(self, **query: str) -> Any:
        answer = await self.inventory.routes()["/v1/certificates"](Request(query))
        return json.loads(answer.body)["certificates"]


@pytest.fixture
def world(caplog: pytest.LogCaptureFixture) -> Farm:
    return Farm(caplog)


def test_a_host_is_known_by_its_certificate_and_by_how_it_answers(world: Farm) -> None:
    certificate = self_signed("rdsh01")
    world.shows("rdsh01", certificate)
    known = world.inventory.of(world.host("rdsh01"))
    assert known is not None
    assert known.certificate is not None
    assert known.certificate.sha256 == certificate.fingerprint
    assert (known.answer, known.tls, known.seen_at) == ("hybrid", "TLSv1.3", NOW)
    shown = ("host_certificate_info", "desktops", "rdsh01", certificate.fingerprint, "true")
    assert world.samples()[shown] == 1
    assert "dynvc_gfx" in known.flags
    assert world.inventory.hosts_that_show(certificate.fingerprint) == ["desktops/rdsh01"]
    assert world.inventory.hosts_that_show("00") == []
    assert world.events() == [], "the first certificate is no change"


def test_a_failure_code_is_kept_and_an_answer_without_tls_is_one_too(world: Farm) -> None:
    host = world.host("rdsh01")
    failed = ProbeResult(False, Cause.TLS_FAILED, "", 0.0, NegotiationFailure(3))
    world.inventory.checked(host, failed)
    assert world.samples()["host_negotiation_info", "desktops", "rdsh01", "failure_3", "", ""] == 1
    world.inventory.checked(host, ProbeResult(True, None, "", 0.0, NegotiationResponse(0, 0)))
    assert world.samples()["host_negotiation_info", "desktops", "rdsh01", "rdp", "", ""] == 1


def test_a_probe_that_fails_takes_nothing_away(world: Farm) -> None:
    world.shows("rdsh01", self_signed("rdsh01"))
    before = world.samples()
    world.inventory.checked(world.host("rdsh01"), REFUSED)
    assert world.samples() == before


def test_another_certificate_is_an_event_with_old_and_new(world: Farm) -> None:
    old, new = self_signed("rdsh01"), self_signed("impostor")
    for certificate in (old, old, new, new):
        world.shows("rdsh01", certificate)
    (event,) = world.events()
    assert event["event"] == "host_certificate_changed"
    assert event["levelname"] == "WARNING"
    assert (event["pool"], event["host"], event["rolled"]) == ("desktops", "rdsh01", False)
    assert (event["old_sha256"], event["sha256"]) == (old.fingerprint, new.fingerprint)
    assert (event["old_subject"], event["subject"]) == ("CN=rdsh01", "CN=impostor")
    assert event["not_after"] == "2124-01-01T00:00:00Z"
    assert world.samples()["host_certificate_changes_total", "desktops", "rdsh01"] == 1


def test_one_that_rolled_by_itself_is_no_warning(
    world: Farm, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.shows("rdsh01", self_signed("rdsh01"))
    monkeypatch.setattr("proxy.control.inventory.rolled_by_itself", lambda *_: True)
    world.shows("rdsh01", self_signed("rdsh01"))
    (event,) = world.events()
    assert (event["rolled"], event["levelname"], event["old_subject"]) == (True, "INFO", None)


def test_a_pool_without_a_common_name_is_warned_of_once_when_all_were_heard(world: Farm) -> None:
    one, two = self_signed("rdsh01"), self_signed("rdsh02")
    world.shows("rdsh01", one)
    assert world.events() == []
    assert ("pool_certificates_distinct", "desktops") not in world.samples()
    world.shows("rdsh02", two)
    (event,) = world.events()
    assert (event["event"], event["pool"]) == ("pool_certificates_differ", "desktops")
    assert (event["certificates"], event["names"]) == (2, "rdsh01, rdsh02")
    for _ in range(3):
        world.shows("rdsh01", one)
        world.shows("rdsh02", two)
    assert world.events() == []
    assert world.samples()["pool_certificates_distinct", "desktops"] == 2
    world.shows("rdsh02", self_signed("rdsh02"))
    assert [event["event"] for event in world.events()] == ["host_certificate_changed"]
    pool = world.pools["desktops"]
    more = HostSettings.model_validate({"name": "rdsh03", "address": "10.0.0.23:3389"})
    hosts = (*pool.settings.hosts, more)
    pool.change(pool.settings.model_copy(update={"hosts": hosts}), {})
    world.inventory.watch([pool])
    world.shows("rdsh03", self_signed("rdsh03"))
    pool.change(pool.settings.model_copy(update={"hosts": hosts[1:]}), {})
    world.inventory.watch([pool])
    assert world.events() == [], "hosts come and go"


def test_a_pool_that_shares_a_name_again_is_warned_of_anew_when_it_no_longer_does(
    world: Farm,
) -> None:
    farm_certificate, own = self_signed("farm.example"), self_signed("rdsh02")
    for certificate in (farm_certificate, own, farm_certificate, own):
        world.shows("rdsh01", farm_certificate)
        world.shows("rdsh02", certificate)
    told = [event["event"] for event in world.events()]
    assert told.count("pool_certificates_differ") == 2


def test_a_host_that_is_away_holds_up_no_warning(world: Farm) -> None:
    world.shows("rdsh01", self_signed("rdsh01"))
    world.inventory.checked(world.host("rdsh02"), REFUSED)
    assert world.events() == []
    assert world.samples()["pool_certificates_distinct", "desktops"] == 1


def test_pools_without_certificates_have_none_in_common_and_no_warning(world: Farm) -> None:
    for name in ("tool01", "tool02"):
        world.inventory.checked(world.host(name), REFUSED)
    assert world.events() == []
    assert world.samples()["pool_certificates_distinct", "tools"] == 0


def test_a_pool_without_pins_is_warned_of_when_it_has_several_certificates(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = Farm(caplog)
    settings = world.pools["desktops"].settings
    keyless = settings.affinity.model_copy(update={"key": AffinityKeyKind.NONE})
    pool = Pool(settings.model_copy(update={"affinity": keyless}))
    world.pools = {"desktops": pool}
    world.inventory.watch([pool])
    one = self_signed("farm.example")
    world.shows("rdsh01", one)
    world.shows("rdsh02", one)
    assert world.events() == [], "a farm with one certificate needs no pins"
    world.shows("rdsh02", self_signed("farm.example"))
    world.shows("rdsh01", one)
    changed, differ = world.events()
    assert changed["event"] == "host_certificate_changed"
    assert (differ["event"], differ["certificates"]) == ("pool_certificates_differ", 2)
    assert differ["detail"].startswith("affinity.key is none: ")


def test_a_pool_that_a_reload_takes_its_pins_from_is_warned_of(world: Farm) -> None:
    world.shows("rdsh01", self_signed("farm.example"))
    world.shows("rdsh02", self_signed("farm.example"))
    assert world.events() == []
    pool = world.pools["desktops"]
    keyless = pool.settings.affinity.model_copy(update={"key": AffinityKeyKind.NONE})
    pool.change(pool.settings.model_copy(update={"affinity": keyless}), {})
    for _ in range(2):
        world.inventory.watch(world.pools.values())
    (differ,) = world.events()
    assert differ["detail"].startswith("affinity.key is none: ")


def test_a_host_that_moved_begins_anew(world: Farm) -> None:
    world.shows("rdsh01", self_signed("rdsh01"))
    pool = world.pools["desktops"]
    first, *others = pool.settings.hosts
    moved = first.model_copy(update={"address": first.address._replace(port=1)})
    pool.change(pool.settings.model_copy(update={"hosts": (moved, *others)}), {})
    world.inventory.watch(world.pools.values())
    known = world.inventory.of(world.host("rdsh01"))
    assert known is not None
    assert known.certificate is None
    world.shows("rdsh01", self_signed("another machine"))
    assert world.events() == [], "no host has changed its certificate"


def test_a_long_list_of_names_is_cut(caplog: pytest.LogCaptureFixture) -> None:
    world = Farm(caplog)
    hosts = tuple(
        HostSettings.model_validate({"name": f"h{n}", "address": f"10.9.0.{n}:3389"})
        for n in range(7)
    )
    pool = Pool(PoolSettings(name="many", hosts=hosts))
    world.inventory.watch([pool])
    for host in pool.hosts:
        world.inventory.checked(host, showing(self_signed(host.name)))
    (event,) = world.events()
    assert event["names"] == "h0, h1, h2, h3, h4, …"


def test_what_is_known_stays_over_a_change_of_the_configuration(world: Farm) -> None:
    one, two = self_signed("rdsh01"), self_signed("rdsh02")
    world.shows("rdsh01", one)
    world.shows("rdsh02", two)
    world.events()
    old = world.host("rdsh01")
    settings = world.pools["desktops"].settings
    moved = settings.hosts[1].model_copy(
        update={"address": settings.hosts[1].address._replace(port=1)}
    )
    changed = settings.model_copy(update={"hosts": (settings.hosts[0], moved)})
    world.pools = {"desktops": Pool(changed)}
    world.inventory.watch(world.pools.values())
    assert world.inventory.hosts_that_show(one.fingerprint) == ["desktops/rdsh01"]
    assert world.inventory.hosts_that_show(two.fingerprint) == [], "another machine, perhaps"
    world.inventory.checked(old, showing(two))
    assert world.inventory.hosts_that_show(two.fingerprint) == [], "a late probe of the old pool"
    world.shows("rdsh02", two)
    assert world.events() == [], "told already"
    gone = Farm.host(world, "rdsh01")
    world.inventory.watch([])
    assert world.inventory.of(gone) is None


async def test_all_of_it_is_shown_as_json(world: Farm) -> None:
    certificate = self_signed("rdsh01")
    world.shows("rdsh01", certificate)
    shown = await world.shown()
    assert [row["host"] for row in shown] == ["rdsh01", "rdsh02", "tool01", "tool02"]
    assert shown[0]["certificate"]["sha256"] == certificate.fingerprint
    assert shown[0]["seen_at"] == "2027-01-15T08:00:00Z"
    assert shown[1]["certificate"] is None
    assert [row["host"] for row in await world.shown(pool="tools")] == ["tool01", "tool02"]
    assert [row["host"] for row in await world.shown(host="rdsh02")] == ["rdsh02"]
