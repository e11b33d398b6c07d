"""bench/contenders.py: the configurations that it writes."""

from __future__ import annotations

from pathlib import Path

import pytest

from bench.contenders import HOSTS, PORT, Contender, configuration, connections_max, contenders
from proxy.config import load

FILES = 20_000
PROXIES = [contender for contender in contenders([]) if contender.command]


@pytest.mark.parametrize("contender", PROXIES, ids=lambda contender: contender.name)
def test_a_configuration_names_every_host_once_and_leaves_no_gap(
    contender: Contender, tmp_path: Path
) -> None:
    text = configuration(contender, tmp_path, FILES)
    assert [text.count(f"{host}:{PORT}") for host in HOSTS] == [1] * len(HOSTS)
    assert "$" not in text


def test_the_proxy_reads_its_own_and_has_one_relay(tmp_path: Path) -> None:
    levels = []
    for contender in PROXIES:
        if contender.template == "rdp-proxy.yaml":
            file = tmp_path / "config.yaml"
            file.write_text(configuration(contender, tmp_path, FILES))
            settings = load(file)
            assert settings.relay.processes == 1
            assert settings.limits.connections == connections_max(FILES)
            levels.append(settings.log.level.name)
    assert levels == ["INFO", "WARNING"]


def test_clients_dial_the_hosts_where_nobody_is_in_between() -> None:
    (direct,) = [contender for contender in contenders([]) if not contender.command]
    assert direct.targets == HOSTS
