"""One node with Prometheus: valid, hardened, and all its files agree with each other."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.config import load
from tests.deploy.tools import ROOT, run_tool

DEPLOY = ROOT / "deploy"
COMPOSE: dict[str, Any] = yaml.safe_load((DEPLOY / "compose.yaml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]


def test_the_compose_file_follows_the_specification() -> None:
    run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_specification_objects_to_an_unknown_key(tmp_path: Path) -> None:
    bad = tmp_path / "compose.yaml"
    bad.write_text("services: {rdp-proxy: {image: rdp-proxy, read_onyl: true}}")
    with pytest.raises(AssertionError, match="read_onyl"):
        run_tool("check-jsonschema", "--builtin-schema", "vendor.compose-spec", bad)


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_is_hardened(name: str) -> None:
    service = SERVICES[name]
    assert service["read_only"] is True
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]


def test_files_mounted_into_services_exist() -> None:
    mounted = [
        DEPLOY / volume.split(":")[0]
        for service in SERVICES.values()
        for volume in service["volumes"]
        if volume.startswith(".")
    ]
    assert mounted
    assert [path for path in mounted if not path.exists()] == []


def test_the_mounted_configuration_loads_and_leaves_the_engine_time_to_stop() -> None:
    settings = load(DEPLOY / "compose" / "config.yaml")
    grace_s = float(SERVICES["rdp-proxy"]["stop_grace_period"].removesuffix("s"))
    assert settings.timeouts.stop_s < grace_s


def test_prometheus_scrapes_where_the_configuration_serves_metrics() -> None:
    settings = load(DEPLOY / "compose" / "config.yaml")
    prometheus = yaml.safe_load((DEPLOY / "prometheus" / "prometheus.yml").read_text())
    (scrape,) = prometheus["scrape_configs"]
    assert settings.metrics is not None
    assert scrape["static_configs"] == [{"targets": [str(settings.metrics.bind)]}]


def test_image_and_compose_ask_for_health_in_the_same_way() -> None:
    command = SERVICES["rdp-proxy"]["healthcheck"]["test"]
    written = ", ".join(f'"{word}"' for word in command[1:])
    assert f"{command[0]} [{written}]" in (ROOT / "Dockerfile").read_text()
