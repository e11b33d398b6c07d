"""Logs: one JSON line for each thing that happened, on standard error.

A line is a fact in the past tense, `event`, with its fields beside it:

    {"time": "2026-11-23T22:50:01.123Z", "level": "info", "event": "connection_placed", …}

`format: text` writes the same for a terminal. Modules below log with the standard library,
`log.info("event", extra={…})`; what is known of connections arrives through `ConnectionLog`.

Laws:
- Writing never blocks the event loop: lines wait in a bounded queue and a thread writes them. When
  the reader of the log stands still, lines are dropped and their number is told afterwards.
- No flood: of connections that came to nothing, `BURST` lines a second for each cause, then one
  line with the number of the others. Established connections are always logged.
- A user name leaves this module only as `log.users` says. The keyed hash is the same over restarts
  and on each line, so that an operator who knows a name can search for it (`names.UserNames`).
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import queue
import sys
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Self, TextIO

from proxy.errors import Cause
from proxy.routing.model import TokenFate
from proxy.routing.signs import Sign
from proxy.server.record import ConnectionRecord, Ending, Phase
from proxy.settings import LogFormat, LogSettings

BURST = 10
_WINDOW_S = 1.0
_QUEUE_LINES = 20_000
_LAST_LINES_S = 2.0
_GATHER_S = 0.02
_BATCH_LINES = 1000
_RECENT = 100
_COURSE = frozenset({"connection_placed", "connection_ended"})

Waiting = queue.SimpleQueue[logging.LogRecord | None]

log = logging.getLogger("proxy")

_OWN_ATTRIBUTES = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def fields_of(record: logging.LogRecord) -> dict[str, object]:
    """What a log record says, in the order of the line."""
    at = datetime.fromtimestamp(record.created, UTC)
    fields: dict[str, object] = {
        "time": at.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        "level": record.levelname.lower(),
        "event": record.getMessage(),
    }
    if record.name.partition(".")[0] != "proxy":  # a library's: its message is no event of ours
        fields |= {"event": "library", "logger": record.name, "message": record.getMessage()}
    attributes = vars(record)
    if known := attributes.get("fields"):  # a connection's: they come in one piece
        fields |= known
    else:
        fields |= {key: it for key, it in attributes.items() if key not in _OWN_ATTRIBUTES}
    if isinstance(number := fields.get("id"), int):
        fields["id"] = f"{number:016x}"  # 64 bits: readers of JSON would round the number
    if record.exc_info:
        fields["exception"] = logging.Formatter().formatException(record.exc_info)
    return fields


class JsonFormatter(logging.Formatter):
    """One JSON object a line, without the fields that are unknown."""

    _encode = json.JSONEncoder(default=str, separators=(",", ":")).encode

    def format(self, record: logging.LogRecord) -> str:
        known = {key: value for key, value in fields_of(record).items() if value is not None}
        return self._encode(known)


class TextFormatter(logging.Formatter):
    """`22:50:01.123 info    connection_placed client=… host=…`, in local time."""

    def format(self, record: logging.LogRecord) -> str:
        fields = fields_of(record)
        del fields["time"], fields["level"]
        event, exception = fields.pop("event"), fields.pop("exception", None)
        at = datetime.fromtimestamp(record.created).astimezone()
        line = f"{at:%H:%M:%S}.{record.msecs:03.0f} {record.levelname.lower():7} {event}"
        for key, value in fields.items():
            if value is not None:
                text = str(value)
                plain = text and text.isprintable() and not set(text) & set(' "=')
                line += f" {key}={text if plain else json.dumps(text)}"
        return f"{line}\n{exception}" if exception else line


_FORMATTERS = {LogFormat.JSON: JsonFormatter, LogFormat.TEXT: TextFormatter}


class LogWriter:
    """The way of all log lines of this process from `logging` to the stream.

    A thread writes them, in batches: one that woke for each line would fight with the event loop
    for the interpreter. A context manager. Leaving it writes what still waits, but for a reader
    that stands still it waits `_LAST_LINES_S` at most.
    """

    def __init__(self, settings: LogSettings, stream: TextIO | None = None) -> None:
        self._waiting: Waiting = queue.SimpleQueue()
        self._handler = _Enqueue(self._waiting)
        self._stream = stream or sys.stderr
        self._formatter = _FORMATTERS[settings.format]()
        self._thread = threading.Thread(target=self._write, name="log", daemon=True)
        self._level = settings.level.name

    def change(self, settings: LogSettings) -> None:
        """Take another level and format for the lines from now on."""
        self._formatter = _FORMATTERS[settings.format]()
        self._level = settings.level.name
        log.setLevel(self._level)

    def __enter__(self) -> Self:
        # Nobody writes these, and each costs a system call or more for every line.
        logging.logThreads = logging.logProcesses = logging.logMultiprocessing = False
        root = logging.getLogger()
        root.addHandler(self._handler)
        root.setLevel(logging.WARNING)  # of libraries, only what is wrong
        log.setLevel(self._level)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        logging.getLogger().removeHandler(self._handler)
        if self._handler.lost:
            self._waiting.put(_lines_lost(self._handler.lost))
        self._waiting.put(None)
        self._thread.join(_LAST_LINES_S)

    def _write(self) -> None:
        ended = False
        while not ended:
            records = [self._waiting.get()]
            time.sleep(_GATHER_S)
            while len(records) < _BATCH_LINES and not self._waiting.empty():
                records.append(self._waiting.get())
            ended = None in records
            lines = [self._formatter.format(record) for record in records if record is not None]
            # A reader that has left is no reason to complain: nobody would read it.
            with contextlib.suppress(OSError, ValueError):
                self._stream.write("".join(f"{line}\n" for line in lines))
                self._stream.flush()


class _Enqueue(logging.Handler):
    """Puts records into the queue as they are: the thread formats them."""

    def __init__(self, waiting: Waiting) -> None:
        super().__init__()
        self.lost = 0
        self._waiting = waiting

    def emit(self, record: logging.LogRecord) -> None:
        if self._waiting.qsize() >= _QUEUE_LINES:
            self.lost += 1
            return
        if self.lost:
            self._waiting.put(_lines_lost(self.lost))
            self.lost = 0
        self._waiting.put(record)


def _lines_lost(lines: int) -> logging.LogRecord:
    level = {"levelname": "WARNING", "levelno": logging.WARNING}
    return logging.makeLogRecord(
        {"name": log.name, "msg": "log_lines_lost", "lines": lines, **level}
    )


class RecentEvents(logging.Handler):
    """Keeps the last lines that tell more than the course of a connection; in memory only."""

    def __init__(self) -> None:
        super().__init__(logging.INFO)
        self._kept: deque[logging.LogRecord] = deque(maxlen=_RECENT)

    def handle(self, record: logging.LogRecord) -> bool:
        """Keep it or not, without the lock of other handlers: every line comes by."""
        if record.levelno > logging.INFO or record.msg not in _COURSE:
            self._kept.append(record)
        return True

    def newest(self) -> list[dict[str, object]]:
        """Their fields, the newest line first."""
        return [fields_of(record) for record in reversed(self._kept)]


class ConnectionLog:
    """Observer of the path: a line when a connection is placed, and one when it ends."""

    def __init__(
        self,
        user_fields: Callable[[str | None], Mapping[str, str]],
        later: Callable[[float, Callable[[], None]], object] | None = None,
    ) -> None:
        """`user_fields` says how a user's name may stand in a line (`names.UserNames`).

        `later` runs something after so many seconds; the running loop's timer by default.
        """
        self._user_fields = user_fields
        self._later = later
        self._burst: dict[Cause | Sign, int] = {}

    def connection_accepted(self, record: ConnectionRecord) -> None:
        if log.isEnabledFor(logging.DEBUG):
            fields = {"id": record.id, "listener": record.listener, "peer": str(record.peer)}
            log.debug("connection_accepted", extra=fields)

    def connection_placed(self, record: ConnectionRecord) -> None:
        if log.isEnabledFor(logging.INFO):
            _tell(logging.INFO, "connection_placed", self.fields(record))

    def connection_ended(self, record: ConnectionRecord) -> None:
        ending = record.ending
        if ending is None:
            return
        level = _level(record)
        if not log.isEnabledFor(level):
            return
        bounded = ending.phase is not Phase.RELAY and level > logging.DEBUG
        if bounded and not self._within_burst(ending.cause):
            return
        _tell(level, "connection_ended", self._ended_fields(record, ending))

    def host_answered(self, pool: str, host: str) -> None:
        """Nothing to say: `connection_placed` follows."""

    def host_failed(self, pool: str, host: str, cause: Cause) -> None:
        log.debug("host_failed", extra={"pool": pool, "host": host, "cause": cause})

    def pin_moved(self, pool: str, cause: str) -> None:
        log.debug("pin_moved", extra={"pool": pool, "cause": cause})

    def pin_disagreed(self, pool: str) -> None:
        log.debug("pin_disagreed", extra={"pool": pool})

    def store_failed(self) -> None:
        log.debug("store_failed")

    def sign_seen(
        self, sign: Sign, record: ConnectionRecord, evidence: Mapping[str, object]
    ) -> None:
        if record.ending is not None and self._within_burst(sign):
            fields = self._ended_fields(record, record.ending)
            _tell(logging.WARNING, sign, fields | dict(evidence))

    def host_changed(
        self,
        pool: str,
        host: str,
        *,
        up: bool,
        cause: str | None = None,
        detail: str | None = None,
    ) -> None:
        """Health's opinion of a host changed."""
        level = logging.INFO if up else logging.WARNING
        event = "host_up" if up else "host_down"
        fields = {"pool": pool, "host": host, "cause": cause, "detail": detail}
        log.log(level, event, extra=fields)

    def fields(self, record: ConnectionRecord) -> dict[str, Any]:
        """A connection's fields. None of what is unknown is written."""
        has_token = record.token is not None or record.fate is not TokenFate.ABSENT
        return {
            "id": record.id,
            "listener": record.listener,
            "client": str(record.client),
            "peer": str(record.peer) if record.peer != record.client else None,
            **self._user_fields(record.user),
            "reason": record.reason,
            "repin_cause": record.repin_cause,
            "table": "away" if record.table_was_away else None,
            "token_fate": record.fate if has_token else None,
            "token_address": _text(record.token_address),
            "token": record.token,
            "destination": _text(record.destination),
            "collection": record.collection,
            "correlation_id": record.correlation_id,
            "requested_protocols": record.requested_protocols,
            "pool": record.pool,
            "host": record.host,
            "host_address": _text(record.host_address),
            "proxy_address": _text(record.proxy_address),
            "answer": record.answer,
            "attempts": record.attempts or None,
            "relay": record.relay,
            "request_s": _rounded(record.request_s),
            "place_s": _rounded(record.place_s),
            "connect_s": _rounded(record.connect_s),
            "answer_s": _rounded(record.answer_s),
        }

    def _ended_fields(self, record: ConnectionRecord, ending: Ending) -> dict[str, Any]:
        return self.fields(record) | {
            "ending": str(ending),
            "phase": ending.phase,
            "side": ending.side,
            "cause": ending.cause,
            "bytes_up": record.bytes_up,
            "bytes_down": record.bytes_down,
            "duration_s": _rounded(record.duration_s),
        }

    def _within_burst(self, cause: Cause | Sign) -> bool:
        """Whether one more line of this cause may be written in this second."""
        seen = self._burst.get(cause, 0)
        self._burst[cause] = seen + 1
        if seen == 0:
            later = self._later or asyncio.get_running_loop().call_later
            later(_WINDOW_S, lambda: self._close_window(cause))
        return seen < BURST

    def _close_window(self, cause: Cause | Sign) -> None:
        more = self._burst.pop(cause) - BURST
        if more > 0:
            fields = {"cause": cause, "connections": more, "within_s": _WINDOW_S}
            log.warning("connections_not_logged", extra=fields)


_BLANK = vars(logging.LogRecord(log.name, logging.INFO, "", 0, "", None, None))


def _tell(level: int, event: str, fields: dict[str, Any]) -> None:
    """As `log.log(level, event, extra=fields)`, at a tenth of the cost: two lines a connection.

    A LogRecord looks up much that nobody reads, such as the name of a source file.
    """
    record = logging.LogRecord.__new__(logging.LogRecord)
    vars(record).update(
        _BLANK,
        created=time.time(),  # noqa: TID251  (as LogRecord does)
        levelno=level,
        levelname=logging.getLevelName(level),
        msg=event,
        fields=fields,
    )
    log.handle(record)


def _level(record: ConnectionRecord) -> int:
    """How much an ending matters to an operator."""
    assert record.ending is not None
    match record.ending.cause:
        case Cause.CLOSED_BEFORE_REQUEST:  # a load balancer's probe
            return logging.DEBUG
        case Cause.INTERNAL | Cause.RELAY_DIED:
            return logging.ERROR
        case Cause.NO_HOST | Cause.LIMIT | Cause.TOKEN_UNKNOWN_HOST | Cause.TOKEN_HOST_DOWN:
            return logging.WARNING
        case Cause.DESTINATION_UNKNOWN_HOST | Cause.DESTINATION_HOST_DOWN | Cause.HOST_FULL:
            return logging.WARNING
        case _:
            return logging.INFO


def _text(value: object | None) -> str | None:
    return None if value is None else str(value)


def _rounded(seconds: float | None) -> float | None:
    return None if seconds is None else round(seconds, 6)
