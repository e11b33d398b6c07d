"""Settings as values: built by hand, frozen, with the defaults that the reference promises."""

from __future__ import annotations

from ipaddress import ip_network
from pathlib import Path

import pytest
from pydantic import ValidationError

from proxy.address import Address
from proxy.settings import (
    AffinitySettings,
    HostSettings,
    LimitSettings,
    ListenerSettings,
    MetricsSettings,
    PoolAffinity,
    PoolSettings,
    Rate,
    Settings,
    StoreKind,
    TimeoutSettings,
    state_path,
)

HOST = HostSettings(name="rdsh01", address=Address("10.0.0.21", 3389))
POOL = PoolSettings(name="desktops", hosts=(HOST,))
LISTENER = ListenerSettings(name="rdp", bind=Address("0.0.0.0", 3389), pool="desktops")


def test_settings_are_built_from_ready_values_by_the_names_of_the_fields() -> None:
    settings = Settings(
        listeners=(LISTENER,),
        pools=(POOL,),
        metrics=MetricsSettings(bind=None),
        timeouts=TimeoutSettings(connect_s=0.5, idle_s=None),
        limits=LimitSettings(new_connections_per_source=Rate(600, 60)),
    )
    assert settings.timeouts.connect_s == 0.5
    assert settings.metrics.bind is None
    assert settings.pools[0].hosts == (HOST,)


def test_settings_cannot_be_changed() -> None:
    with pytest.raises(ValidationError, match="frozen"):
        TimeoutSettings().connect_s = 1.0


def test_collections_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        LISTENER.collections["Full_Desktop"] = "desktops"  # type: ignore[index]


def test_collections_keep_their_order_and_let_go_of_the_callers_mapping() -> None:
    given = {"b": "desktops", "a": "desktops"}
    listener = ListenerSettings(name="rdp", bind=LISTENER.bind, pool="x", collections=given)
    given.clear()
    assert list(listener.collections) == ["b", "a"]


def test_settings_are_compared_by_value() -> None:
    copy = ListenerSettings(name="rdp", bind=Address("0.0.0.0", 3389), pool="desktops")
    assert copy == LISTENER
    assert copy.model_copy(update={"collections": {"a": "desktops"}}) != LISTENER


def test_a_value_out_of_range_is_refused_by_hand_as_well() -> None:
    with pytest.raises(ValidationError, match="a whole number from 0 to 10000"):
        HostSettings(name="rdsh01", address=HOST.address, weight=-1)
    with pytest.raises(ValidationError, match="at least 60 s"):
        PoolAffinity(ttl_s=59)


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(ValidationError, match="extra_forbidden"):
        TimeoutSettings.model_validate({"conect": "3s"})


def test_everybody_may_come_unless_told_otherwise() -> None:
    assert LISTENER.allow == (ip_network("0.0.0.0/0"), ip_network("::/0"))


def test_a_token_address_without_a_port_takes_the_port_of_the_host() -> None:
    host = HostSettings.model_validate(
        {
            "name": "rdsh01",
            "address": "rdsh01.example:3390",
            "token_addresses": ["192.0.2.1", "192.0.2.1:3389", "2001:db8::1"],
        }
    )
    assert [str(address) for address in host.token_addresses] == [
        "192.0.2.1:3390",
        "192.0.2.1:3389",
        "[2001:db8::1]:3390",
    ]


def test_redis_needs_a_url_and_sqlite_has_none() -> None:
    with pytest.raises(ValidationError, match="redis needs `url`"):
        AffinitySettings(store=StoreKind.REDIS)
    with pytest.raises(ValidationError, match="only `store: redis` has a url"):
        AffinitySettings(url="redis://10.0.0.5")
    assert AffinitySettings(store=StoreKind.REDIS, url="redis://10.0.0.5").url == "redis://10.0.0.5"


def test_the_url_of_redis_stays_out_of_what_is_printed() -> None:
    settings = AffinitySettings(store=StoreKind.REDIS, url="redis://:hunter2@10.0.0.5")
    assert "hunter2" not in repr(settings)


def test_an_empty_value_stands_for_an_empty_default_only() -> None:
    keys = {"name": "rdp", "bind": "0.0.0.0:3389", "pool": "desktops"}
    assert ListenerSettings.model_validate(keys | {"collections": ""}) == LISTENER
    with pytest.raises(ValidationError):
        ListenerSettings.model_validate(keys | {"allow": ""})


def test_settings_written_as_json_are_a_file_again() -> None:
    settings = Settings(
        listeners=(LISTENER,),
        pools=(POOL,),
        timeouts=TimeoutSettings(connect_s=0.25, keepalive_s=90),
        limits=LimitSettings(new_connections_per_source=Rate(600, 60)),
    )
    written = settings.model_dump(mode="json", by_alias=True)
    assert written["timeouts"]["connect"] == "250ms"
    assert written["admin"]["bind"] == "unix:admin.sock"
    assert Settings.model_validate(written) == settings


def test_a_relative_path_of_state_lies_in_the_state_directory(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("STATE_DIRECTORY", f"{tmp_path}:/elsewhere")
    assert state_path("affinity.db") == tmp_path / "affinity.db"
    assert state_path("/run/affinity.db") == Path("/run/affinity.db")


def test_a_relative_path_of_state_lies_in_the_working_directory_without_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("STATE_DIRECTORY", raising=False)
    monkeypatch.chdir(tmp_path)
    assert state_path("admin.sock") == tmp_path / "admin.sock"
