"""Scrape configuration, alerts, a scrape: valid, as promtool has it, about metrics we have."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from proxy.control.series import PREFIX, SERIES
from tests.deploy.tools import ROOT, run_tool
from tests.unit.control.farm import connection
from tests.unit.control.scrape import House

PROMETHEUS = ROOT / "deploy" / "prometheus"
RULES: list[dict[str, Any]] = [
    rule
    for group in yaml.safe_load((PROMETHEUS / "rules.yml").read_text())["groups"]
    for rule in group["rules"]
]


def test_the_scrape_configuration_is_valid() -> None:
    run_tool("promtool", "check", "config", PROMETHEUS / "prometheus.yml")


def test_the_alerts_are_valid() -> None:
    run_tool("promtool", "check", "rules", PROMETHEUS / "rules.yml")


def test_alerts_fire_when_they_should_and_not_before() -> None:
    run_tool("promtool", "test", "rules", PROMETHEUS / "rules_test.yml")


def test_promtool_objects_to_an_alert_that_cannot_be_read(tmp_path: Path) -> None:
    bad = tmp_path / "rules.yml"
    bad.write_text("groups: [{name: a, rules: [{alert: A, expr: 'sum by ('}]}]")
    with pytest.raises(AssertionError, match="could not parse expression"):
        run_tool("promtool", "check", "rules", bad)


async def test_promtool_has_no_objection_to_a_scrape() -> None:
    house = House()
    house.metrics.connection_placed(connection())
    text = (await house.metrics.render(house.sources)).decode()
    run_tool("promtool", "check", "metrics", text=text)
    with pytest.raises(AssertionError, match="error while linting"):
        run_tool("promtool", "check", "metrics", text=text + "rdp_proxy_relay_up{relay=} 1\n")


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_is_proved_by_a_case_where_it_fires(rule: dict[str, Any]) -> None:
    cases = yaml.safe_load((PROMETHEUS / "rules_test.yml").read_text())["tests"]
    firing = {
        case["alertname"]
        for test in cases
        for case in test["alert_rule_test"]
        if case.get("exp_alerts")
    }
    assert rule["alert"] in firing


@pytest.mark.parametrize("rule", RULES, ids=lambda rule: str(rule["alert"]))
def test_every_alert_asks_for_metrics_that_the_proxy_has(rule: dict[str, Any]) -> None:
    asked = {name.removeprefix(PREFIX) for name in re.findall(rf"{PREFIX}\w+", rule["expr"])}
    assert asked <= SERIES.keys()
    assert asked or "up{" in rule["expr"]
