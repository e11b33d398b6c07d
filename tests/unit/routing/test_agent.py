"""HAProxy's agent-check text: each word, and what a line leaves as it was."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from proxy.routing.agent import AgentWord
from proxy.routing.will import Will

NOW = 5000.0


@pytest.mark.parametrize(
    ("line", "said"),
    [
        (b"up\n", AgentWord()),
        (b"75%\n", AgentWord(percent=75)),
        (b"0%", AgentWord(percent=0)),
        (b"maxconn:30\r\n", AgentWord(max_connections=30)),
        (b"maxconn:30 maxconn:0", AgentWord()),
        (b"drain\n", AgentWord(Will.DRAIN, since=NOW)),
        (b"maint\n", AgentWord(Will.MAINTENANCE, since=NOW)),
        (b"down\n", AgentWord(down=True, since=NOW)),
        (b"fail\n", AgentWord(down=True, since=NOW)),
        (b"failed\n", AgentWord(down=True, since=NOW)),
        (b"stopped#for patching\n", AgentWord(down=True, detail="for patching", since=NOW)),
        (
            b"DRAIN,  50%\tUp #12 users\nmaint\n",
            AgentWord(Will.DRAIN, False, 50, None, "12 users", NOW),
        ),
        (b"up sunny 60%\n", AgentWord(percent=60)),
        ("up #\u00fcber\u0007 voll\n".encode(), AgentWord(detail="\u00fcber voll")),
    ],
)
def test_a_line_is_understood(line: bytes, said: AgentWord) -> None:
    assert AgentWord().and_now(line, NOW) == said


def test_an_agent_that_has_said_nothing_changes_nothing() -> None:
    said = AgentWord()
    assert (said.will, said.down, said.percent, said.max_connections) == (
        Will.READY,
        False,
        100,
        None,
    )


def test_what_a_line_does_not_speak_of_stays_as_it_was() -> None:
    said = AgentWord().and_now(b"drain down 40% maxconn:9 #tired\n", NOW)
    later = said.and_now(b"30%\n", NOW + 5)
    assert later == AgentWord(Will.DRAIN, True, 30, 9, "", NOW)
    assert later.and_now(b"ready up\n", NOW + 9) == AgentWord(Will.READY, False, 30, 9, "", NOW + 9)


def test_saying_the_same_again_is_no_change() -> None:
    said = AgentWord().and_now(b"drain\n", NOW)
    assert said.and_now(b"drain\n", NOW + 9).since == NOW


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"HTTP/1.1 400 Bad Request\r\n", b"#up", b"-5%", b"\xff"]
)
def test_a_line_without_a_word_that_means_something_is_refused(line: bytes) -> None:
    with pytest.raises(ValueError, match="not an agent's line"):
        AgentWord().and_now(line, NOW)


@given(st.binary(max_size=600))
def test_whatever_a_host_sends_is_a_word_or_refused(line: bytes) -> None:
    try:
        said = AgentWord().and_now(line, NOW)
    except ValueError:
        return
    assert len(said.detail) <= 120
    assert said.percent >= 0
