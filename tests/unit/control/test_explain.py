"""Explain: what it reads, what each rule says, and that it agrees with the live engine."""

from __future__ import annotations

import json
from typing import Any

import pytest

from proxy import config
from proxy.control.explain import Explanation, explain, token_line
from proxy.errors import Cause, WireError
from proxy.settings import Settings
from tests.unit.control.farm import FARM, farm
from tests.vectors import VECTORS

ELTONS = "0300002c27e00000000000436f6f6b69653a206d737473686173683d656c746f6e730d0a0100080000000000"
RDSH02 = "Cookie: msts=369098762.15629.0000"


def told(*settings: Settings, **asked: Any) -> Explanation:
    return explain(*(settings or [farm()]), **({"client": "203.0.113.7"} | asked))


def verdicts(explanation: Explanation) -> dict[str, str]:
    return {v.rule: ("!" if v.decides else "") + v.words for v in explanation.rules}


def hosts(explanation: Explanation) -> list[str]:
    return [candidate.host for candidate in explanation.candidates]


def test_a_collection_that_the_listener_does_not_have_is_noted() -> None:
    line = "tsv://MS Terminal Services Plugin.1."
    explanation = told(token=line + "Tolls")
    assert explanation.pool == "desktops"
    assert (
        "rdp has no collection 'Tolls' (it has Tools): its default pool serves."
        in explanation.notes
    )
    assert not any("collection" in note for note in told(token=line + "tools").notes)
    assert any("(it has none)" in note for note in told(token=line + "x", listener="second").notes)


def test_a_token_that_names_a_host_is_followed_alone() -> None:
    explanation = told(token=RDSH02)
    assert explanation.request["token address"] == "10.0.0.22:3389"
    assert verdicts(explanation) == {
        "token": "!token, rdsh02",
        "destination": "not asked any more",
        "learned": "not asked any more",
        "pin": "not asked any more",
        "balance": "not asked any more",
    }
    assert (explanation.reason, explanation.token_fate) == ("token", "honoured")
    assert hosts(explanation) == ["rdsh02"]


def test_a_token_that_names_a_host_in_the_networks_is_followed_and_noted() -> None:
    text = FARM.replace(
        "  - name: tools\n    aff", "  - name: tools\n    token: {networks: [10.0.4.0/24]}\n    aff"
    )
    explanation = told(config.loads(text), token="10.0.4.7")
    assert (explanation.token_fate, explanation.pool) == ("honoured", "tools")
    assert hosts(explanation) == ["[10.0.4.7]"]
    assert any("listed nowhere" in note for note in explanation.notes)
    assert told(config.loads(text), token="10.0.5.7").token_fate == "unknown_host"


def test_a_token_that_names_a_host_of_another_pool_decides_the_pool() -> None:
    explanation = told(token="10.0.1.1", user="bob")
    assert (explanation.pool, hosts(explanation)) == ("tools", ["tool01"])
    assert explanation.key == "user:bob"


BY_DESTINATION = FARM.replace(
    "  - name: second\n",
    "    route_by: destination\n    vips: [192.0.2.80]\n  - name: second\n",
)


def test_a_client_that_dials_a_host_goes_there() -> None:
    at = config.loads(BY_DESTINATION)
    explanation = told(at, destination="10.0.0.22", pin="rdsh01")
    assert verdicts(explanation)["destination"] == "!destination, rdsh02"
    assert (explanation.reason, hosts(explanation)) == ("destination", ["rdsh02"])
    assert told(at, destination="10.0.0.22", token="10.0.0.21").reason == "token"
    refused = told(at, destination="10.66.6.6:3389")
    assert (refused.reason, hosts(refused)) == ("destination_refused", [])
    assert told(at, destination="192.0.2.80").reason == "balanced"


def test_what_a_client_dials_does_not_matter_where_the_listener_does_not_go_by_it() -> None:
    explanation = told(destination="10.0.0.22", pin="rdsh01")
    assert explanation.reason == "pin"
    assert any("no `route_by: destination`" in note for note in explanation.notes)
    with pytest.raises(ValueError, match="not an IP address that a client dials"):
        told(destination="rdsh01.example")


def test_a_token_that_names_no_host_is_refused() -> None:
    explanation = told(token="10.66.6.6:3389", pin="rdsh01")
    assert (explanation.reason, explanation.token_fate) == ("token_refused", "unknown_host")
    assert hosts(explanation) == []
    assert "No host is tried." in explanation.as_text()


def test_hosts_with_names_are_told_where_a_token_might_mean_them() -> None:
    named = config.loads(FARM.replace("10.0.1.2", "tool02.example"))
    unknown = told(named, token="10.66.6.6")
    assert any("tool02[tool02.example]" in note for note in unknown.notes)
    assert not any("tool02" in note for note in told(named, token=RDSH02).notes)


def test_a_new_client_is_balanced() -> None:
    explanation = told()
    assert verdicts(explanation)["pin"] == "the affinity table has no pin for this key"
    assert explanation.reason == "balanced"
    assert hosts(explanation) == ["rdsh01", "rdsh02"]
    assert explanation.key == "source:203.0.113.7"
    assert any("--pin" in note for note in explanation.notes)


def test_a_pin_comes_first() -> None:
    explanation = told(pin="rdsh02")
    assert verdicts(explanation)["pin"] == "!pin, rdsh02 comes first"
    assert hosts(explanation) == ["rdsh02", "rdsh01"]


def test_a_pin_to_a_host_that_is_gone_is_repinned() -> None:
    explanation = told(pin="rdsh99")
    assert explanation.reason == "repinned"
    assert verdicts(explanation)["pin"] == "!repinned (gone), rdsh01 comes first"


def test_a_collection_leads_to_its_pool() -> None:
    explanation = told(token="tsv://MS Terminal Services Plugin.1.Tools", user="bob")
    assert explanation.request["collection"] == "Tools"
    assert (explanation.pool, explanation.token_fate) == ("tools", "absent")


def test_a_captured_request_is_read_field_by_field() -> None:
    spaced = " ".join(ELTONS[at : at + 2] for at in range(0, len(ELTONS), 2))
    for text in (ELTONS, ELTONS.upper(), f"0x{ELTONS}\n", spaced, spaced.replace(" ", ":")):
        request = told(request_hex=text).request
        assert request["user"] == "eltons"
        assert request["length"] == "44 bytes"
        assert request["protocols"] == "rdp"
        assert request["token"] is None


@pytest.mark.parametrize("vector", VECTORS, ids=lambda vector: vector.name)
def test_every_vector_is_explained_or_refused_with_a_cause(vector: Any) -> None:
    if vector.expect["kind"] != "invalid":
        request = told(request_hex=vector.data.hex()).request
        address = request["token address"]
        expected = vector.expect["token_host"]
        assert address == (f"{expected}:{vector.expect['token_port']}" if expected else None)
        return
    with pytest.raises((WireError, ValueError)):
        told(request_hex=vector.data.hex())


def test_a_malformed_request_carries_its_cause() -> None:
    with pytest.raises(WireError) as refused:
        told(request_hex=b"GET / HTTP/1.1\r\n\r\n".hex())
    assert refused.value.cause is Cause.NOT_TPKT


@pytest.mark.parametrize(
    ("asked", "words"),
    [
        ({"request_hex": "0300zz"}, "not hexadecimal"),
        ({"request_hex": "030"}, "not hexadecimal"),
        ({"request_hex": ELTONS[:40]}, "cut off: it has 20 bytes, at least 24 are missing"),
        ({"request_hex": ""}, "cut off"),
        ({"request_hex": ELTONS, "user": "x"}, "give it, or them"),
        ({"client": "desk.example"}, "not the IP address of a client"),
        ({"client": ""}, "not the IP address of a client"),
        ({"listener": "third"}, "there is no listener 'third'; there is rdp, second"),
        ({"token": " "}, "the token is empty"),
        ({"token": "a\r\nb"}, "one line"),
    ],
)
def test_an_argument_that_cannot_be_read_is_told(asked: dict[str, str], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        told(**asked)


@pytest.mark.parametrize("client", ["2001:db8::7", "[2001:db8::7]:4711", "[2001:db8::7]"])
def test_an_ipv6_client_is_known_by_its_network(client: str) -> None:
    explanation = told(client=client)
    assert explanation.client == "2001:db8::7"
    assert explanation.key == "source:2001:db8::/64"


def test_what_the_listener_would_say_before_any_rule_is_noted() -> None:
    notes = " ".join(told(listener="second", request_hex=ELTONS).notes)
    assert "closed at once" in notes
    assert "standard RDP security only" in notes
    assert "PROXY header" in " ".join(told(listener="second", client="192.0.2.7").notes)
    assert told(listener="second", client="192.0.2.9", user="bob", pin="tool01").notes == []


def test_text_and_json_tell_the_same() -> None:
    explanation = told(token=RDSH02)
    text, data = explanation.as_text(), json.loads(json.dumps(explanation.as_dict()))
    for words in (RDSH02, "10.0.0.22:3389", "honoured", "rdsh02", "source:203.0.113.7"):
        assert words in text
        assert words in json.dumps(data)
    assert data["candidates"] == [{"host": "rdsh02", "address": "10.0.0.22:3389"}]


@pytest.mark.parametrize(
    "text",
    [RDSH02, "msts=369098762.15629.0000", "369098762.15629.0000", "10.0.0.22:3389", "10.0.0.22"],
)
def test_a_token_may_be_given_in_any_form_at_hand(text: str) -> None:
    assert token_line(text) == RDSH02.encode()


def test_other_text_is_a_line_as_it_is() -> None:
    assert token_line("tsv://x.1.y\r\n") == b"tsv://x.1.y"
    assert token_line("msts=opaque") == b"Cookie: msts=opaque"
