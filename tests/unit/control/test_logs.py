"""Logs: lines that parse, fields that operators need, names that stay private, and no flood."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest

from proxy.address import Address
from proxy.control import logs
from proxy.control.logs import BURST, ConnectionLog, LogWriter, RecentEvents
from proxy.control.names import UserNames, hash_user
from proxy.errors import Cause, Side
from proxy.routing.model import TokenFate
from proxy.routing.signs import Sign
from proxy.server.record import ConnectionRecord, Ending, Phase
from proxy.settings import LogFormat, LogLevel, LogSettings, LogUsers
from tests.patience import PATIENCE_S
from tests.unit.control.farm import connection

KEY = bytes(32)
Line = dict[str, Any]


def written(
    act: Callable[[ConnectionLog], object], users: LogUsers = LogUsers.HASH, level: str = "info"
) -> list[Line]:
    """The JSON lines of what `act` tells the log; the burst's window closes at its end."""
    stream = io.StringIO()
    due: list[Callable[[], None]] = []
    with LogWriter(LogSettings(level=LogLevel(level)), stream):
        told = ConnectionLog(UserNames(users, KEY), lambda _, close: due.append(close))
        act(told)
        for close in due:
            close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def ended(cause: Cause, phase: Phase = Phase.REQUEST, **changes: Any) -> ConnectionRecord:
    changes = {"phase": phase, "fate": TokenFate.ABSENT, "token": None, "user": None} | changes
    return connection(ending=Ending(phase, Side.CLIENT, cause), duration_s=0.25, **changes)


def test_a_placed_connection_is_one_line_with_all_that_is_known() -> None:
    (line,) = written(lambda log: log.connection_placed(connection()))
    time = line.pop("time")
    assert time.endswith("Z")
    assert time[10] == "T"
    assert line == {
        "level": "info",
        "event": "connection_placed",
        "id": "0000000000000007",
        "listener": "rdp",
        "client": "203.0.113.7:50123",
        "user_hash": hash_user(KEY, "alice"),
        "reason": "token",
        "token_fate": "honoured",
        "token_address": "10.0.0.21:3389",
        "token": "Cookie: msts=352321546.15629.0000",
        "correlation_id": "00112233445566778899aabbccddeeff",
        "requested_protocols": 3,
        "pool": "desktops",
        "host": "rdsh01",
        "host_address": "10.0.0.21:3389",
        "proxy_address": "10.0.0.1:40404",
        "answer": "hybrid",
        "attempts": 1,
        "relay": 1,
        "request_s": 0.001,
        "place_s": 0.004,
        "connect_s": 0.0005,
        "answer_s": 0.003,
    }


def test_a_placement_without_the_table_says_so() -> None:
    record = connection()
    record.table_was_away = True
    (line,) = written(lambda log: log.connection_placed(record))
    assert line["table"] == "away"


def test_an_ended_connection_says_how_far_who_and_why() -> None:
    record = connection(ending=Ending(Phase.RELAY, Side.SERVER, Cause.RESET), duration_s=3600.5)
    (line,) = written(lambda log: log.connection_ended(record))
    assert line["event"] == "connection_ended"
    assert line["ending"] == "relay/server/reset"
    assert (line["phase"], line["side"], line["cause"]) == ("relay", "server", "reset")
    assert (line["bytes_up"], line["bytes_down"]) == (100, 5000)
    assert line["duration_s"] == 3600.5
    assert line["id"] == "0000000000000007"


def test_the_balancer_in_front_is_named_where_it_is_not_the_client() -> None:
    record = connection(peer=Address("10.9.9.9", 4000))
    (line,) = written(lambda log: log.connection_placed(record))
    assert line["peer"] == "10.9.9.9:4000"
    assert line["client"] == "203.0.113.7:50123"


@pytest.mark.parametrize("users", [LogUsers.HASH, LogUsers.OMIT])
def test_a_users_name_never_appears_unless_asked_for(users: LogUsers) -> None:
    def act(log: ConnectionLog) -> None:
        record = connection(user="alice-in-private", key="user:alice-in-private")
        log.connection_accepted(record)
        log.connection_placed(record)
        record.ending, record.duration_s = Ending(Phase.RELAY, Side.CLIENT, Cause.CLOSED), 1.0
        log.connection_ended(record)

    lines = written(act, users, level="debug")
    assert len(lines) == 3
    assert "alice" not in json.dumps(lines)


def test_a_users_name_appears_where_it_is_asked_for() -> None:
    (line,) = written(lambda log: log.connection_placed(connection()), LogUsers.PLAIN)
    assert line["user"] == "Alice"


def test_a_refused_token_names_its_address_at_warning() -> None:
    record = ended(
        Cause.TOKEN_UNKNOWN_HOST,
        Phase.PLACE,
        token="Cookie: msts=1.2.0000",
        token_address=Address("10.66.6.6", 3389),
        fate=TokenFate.UNKNOWN_HOST,
    )
    (line,) = written(lambda log: log.connection_ended(record))
    assert line["level"] == "warning"
    assert line["token_address"] == "10.66.6.6:3389"
    assert line["token_fate"] == "unknown_host"


def test_a_probe_that_sends_nothing_is_told_at_debug_only() -> None:
    record = ended(Cause.CLOSED_BEFORE_REQUEST)
    assert written(lambda log: log.connection_ended(record)) == []
    (line,) = written(lambda log: log.connection_ended(record), level="debug")
    assert line["cause"] == "closed_before_request"


def test_a_flood_of_one_cause_is_cut_and_its_rest_counted() -> None:
    def act(log: ConnectionLog) -> None:
        for _ in range(BURST + 90):
            log.connection_ended(ended(Cause.NOT_TPKT))
        log.connection_ended(ended(Cause.TPKT_LENGTH))

    lines = written(act)
    causes = [line["cause"] for line in lines if line["event"] == "connection_ended"]
    assert causes == ["not_tpkt"] * BURST + ["tpkt_length"]
    (rest,) = [line for line in lines if line["event"] == "connections_not_logged"]
    assert (rest["cause"], rest["connections"]) == ("not_tpkt", 90)


def test_established_connections_are_logged_however_many_end() -> None:
    def act(log: ConnectionLog) -> None:
        for _ in range(BURST * 5):
            log.connection_ended(ended(Cause.CLOSED, Phase.RELAY))

    assert len(written(act)) == BURST * 5


async def test_a_burst_begins_anew_after_its_second(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "_WINDOW_S", 0.01)
    closed = asyncio.Event()
    monkeypatch.setattr(logs.log, "warning", lambda *_, **__: closed.set())
    stream = io.StringIO()
    with LogWriter(LogSettings(), stream):
        told = ConnectionLog(UserNames(LogUsers.HASH, KEY))
        for _ in range(BURST + 5):
            told.connection_ended(ended(Cause.NOT_TPKT))
        async with asyncio.timeout(PATIENCE_S):
            await closed.wait()
        told.connection_ended(ended(Cause.NOT_TPKT))
    assert len(stream.getvalue().splitlines()) == BURST + 1


@pytest.mark.parametrize(
    ("cause", "phase", "level"),
    [
        (Cause.INTERNAL, Phase.PLACE, "error"),
        (Cause.RELAY_DIED, Phase.RELAY, "error"),
        (Cause.NO_HOST, Phase.PLACE, "warning"),
        (Cause.LIMIT, Phase.ACCEPT, "warning"),
        (Cause.HOST_FULL, Phase.PLACE, "warning"),
        (Cause.NOT_TPKT, Phase.REQUEST, "info"),
        (Cause.CLOSED, Phase.RELAY, "info"),
    ],
)
def test_the_level_says_whether_an_operator_should_care(
    cause: Cause, phase: Phase, level: str
) -> None:
    (line,) = written(lambda log: log.connection_ended(ended(cause, phase)))
    assert line["level"] == level


def test_a_sign_is_told_with_its_evidence_and_not_in_floods() -> None:
    def act(log: ConnectionLog) -> None:
        record = ended(Cause.CLOSED, Phase.RELAY)
        for _ in range(BURST + 5):
            log.sign_seen(Sign.CERTIFICATE_MISMATCH, record, {"previous_host": "rdsh02"})

    *lines, more = written(act)
    assert len(lines) == BURST
    told = {key: lines[0][key] for key in ("event", "level", "host", "ending", "bytes_down")}
    assert told == {
        "event": "suspected_certificate_mismatch",
        "level": "warning",
        "host": "rdsh01",
        "ending": "relay/client/closed",
        "bytes_down": 5000,
    }
    assert lines[0]["previous_host"] == "rdsh02"
    assert (more["cause"], more["connections"]) == ("suspected_certificate_mismatch", 5)


def test_recent_events_are_those_that_are_no_connections_course() -> None:
    recent = RecentEvents()
    logger = logging.getLogger("proxy")
    logger.addHandler(recent)
    try:
        with LogWriter(LogSettings(), io.StringIO()):
            told = ConnectionLog(UserNames(LogUsers.HASH, KEY), lambda *_: None)
            for number in range(150):
                told.connection_placed(connection())
                told.connection_ended(ended(Cause.CLOSED, Phase.RELAY))
                told.host_changed("desktops", f"rdsh{number}", up=True)
            told.connection_ended(ended(Cause.NO_HOST, Phase.PLACE))
    finally:
        logger.removeHandler(recent)
    newest = recent.newest()
    assert len(newest) == 100
    assert [(it["event"], it["level"]) for it in newest[:2]] == [
        ("connection_ended", "warning"),
        ("host_up", "info"),
    ]
    assert newest[1]["host"] == "rdsh149"


def test_hosts_that_turn_are_told() -> None:
    def act(log: ConnectionLog) -> None:
        log.host_changed("desktops", "rdsh01", up=False, cause="refused", detail="no connection")
        log.host_changed("desktops", "rdsh01", up=True)

    down, up = written(act)
    assert (down["event"], down["level"], down["cause"]) == ("host_down", "warning", "refused")
    assert down["detail"] == "no connection"
    assert (up["event"], up["level"], up["host"]) == ("host_up", "info", "rdsh01")


def test_events_on_the_path_are_told_at_debug_only() -> None:
    def act(log: ConnectionLog) -> None:
        log.host_answered("desktops", "rdsh01")
        log.host_failed("desktops", "rdsh01", Cause.REFUSED)
        log.pin_moved("desktops", "token")
        log.store_failed()

    assert written(act) == []
    events = [line["event"] for line in written(act, level="debug")]
    assert events == ["host_failed", "pin_moved", "store_failed"]


def test_a_modules_own_line_is_an_event_with_its_fields() -> None:
    logger = logging.getLogger("proxy.server.listener")
    lines = written(lambda _: logger.info("listening", extra={"bind": Address("::1", 3389)}))
    assert lines[0]["event"] == "listening"
    assert lines[0]["bind"] == ["::1", 3389]


def test_a_librarys_line_is_not_taken_for_an_event() -> None:
    lines = written(lambda _: logging.getLogger("aiohttp.server").error("it %s", "broke"))
    assert lines[0]["event"] == "library"
    assert (lines[0]["logger"], lines[0]["message"]) == ("aiohttp.server", "it broke")


def test_libraries_are_heard_only_when_something_is_wrong() -> None:
    assert written(lambda _: logging.getLogger("asyncio").info("chatter"), level="debug") == []


def test_an_id_survives_readers_that_round_large_numbers() -> None:
    lines = written(lambda log: log.connection_placed(connection(id=0x9EEA_D2D3_0000_0001)))
    assert lines[0]["id"] == "9eead2d300000001"


def test_an_exception_stays_on_its_line() -> None:
    def act(_: ConnectionLog) -> None:
        try:
            raise RuntimeError("boom")  # noqa: TRY301
        except RuntimeError:
            logging.getLogger("proxy.app").exception("failed")

    (line,) = written(act)
    assert line["level"] == "error"
    assert line["exception"].endswith("RuntimeError: boom")


def test_text_from_clients_cannot_begin_a_line_of_its_own() -> None:
    record = connection(token='x" \n{"event":"forged"}', collection="a\x1b[2J", user="b\r\n")
    for form in LogFormat:
        stream = io.StringIO()
        with LogWriter(LogSettings(format=form), stream):
            ConnectionLog(UserNames(LogUsers.PLAIN, KEY)).connection_placed(record)
        assert stream.getvalue().count("\n") == 1
        assert stream.getvalue().strip().isprintable()


def test_text_format_reads_as_a_line_for_people() -> None:
    stream = io.StringIO()
    with LogWriter(LogSettings(format=LogFormat.TEXT), stream):
        ConnectionLog(UserNames(LogUsers.HASH, KEY)).connection_placed(connection())
    line = stream.getvalue()
    assert (
        " info    connection_placed id=0000000000000007 listener=rdp client=203.0.113.7:50123 "
        in line
    )
    assert 'token="Cookie: msts=352321546.15629.0000"' in line


class _Stuck(io.StringIO):
    """A stream whose reader stands still until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()

    def write(self, text: str) -> int:
        assert self.go.wait(10)
        return super().write(text)


def test_a_reader_that_stands_still_costs_lines_and_not_the_loop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_QUEUE_LINES", 5)
    stream = _Stuck()
    with LogWriter(LogSettings(), stream):
        for number in range(50):
            logs.log.info("line", extra={"number": number})
        stream.go.set()
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    kept = [line["number"] for line in lines if line["event"] == "line"]
    assert kept == sorted(kept)
    assert kept[:5] == list(range(5))
    lost = [line for line in lines if line["event"] == "log_lines_lost"]
    assert sum(line["lines"] for line in lost) == 50 - len(kept) > 0
    assert {line["level"] for line in lost} == {"warning"}


def test_a_reader_that_never_reads_again_does_not_hold_up_the_stop(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(logs, "_QUEUE_LINES", 2)
    monkeypatch.setattr(logs, "_LAST_LINES_S", 0.01)
    stream = _Stuck()
    writer = LogWriter(LogSettings(), stream)
    with writer:
        for _ in range(10):
            logs.log.info("line")
    assert stream.getvalue() == ""
    assert writer._thread.is_alive(), "it waits on, and the process may end without it"
    stream.go.set()


def test_a_reader_that_left_is_no_reason_to_complain(capsys: pytest.CaptureFixture[str]) -> None:
    class Left(io.StringIO):
        def write(self, _: str) -> int:
            raise BrokenPipeError

    with LogWriter(LogSettings(), Left()):
        logs.log.warning("hello")
    assert capsys.readouterr().err == ""
