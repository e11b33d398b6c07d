"""The file of the embedded table: opening, checking, setting aside, checkpointing.

What: everything that concerns the file rather than its rows. All of it blocks, so it is called in
a thread, except where a table that broke at run time is replaced.

Why so careful:
- A table that cannot be read must not keep the proxy from starting: live connections seed it
  again. So a corrupt file is set aside (never deleted) and an empty one takes its place.
- SQLite before 3.51.3 can corrupt a database when a checkpoint begins on a write-ahead log that
  is wholly copied already, while a commit starts that log anew (https://www.sqlite.org/wal.html,
  "The WAL-Reset Bug"). Two rules keep us clear of it on every version: one process alone
  checkpoints (whoever holds the lock file), and it begins only when it committed something since
  its last checkpoint ended, so that the log is not wholly copied at that point. (The emptying
  that may follow holds the write lock: no commit is under way then.)
- The lock is on a file of its own: to open and close the database behind SQLite's back would
  drop the POSIX locks that this process holds on it.

Invariant: every sqlite3.Error and OSError of the file leaves here, or `SqliteStore`, as StoreError
with a message that says what to do; only corruption is an exception of its own inside.
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

from proxy.errors import StoreError

IN_MEMORY = ":memory:"
OLDEST_SQLITE = (3, 24, 0)  # upsert and row values
OPEN_WAIT_S = 5.0  # another front may be opening, or writing, at the same moment
CHECKPOINT_WAIT_S = 0.1  # for a writer to end its transaction, which takes milliseconds
LONG_LOG_PAGES = 4096  # 16 MiB
APPLICATION_ID = 0x52445078  # "RDPx" in the header: the file is an affinity table
SCHEMA_VERSION = 1
SCHEMA = (
    """
    CREATE TABLE IF NOT EXISTS pins (
        pool TEXT NOT NULL,
        key TEXT NOT NULL,
        host TEXT NOT NULL,
        expires_at REAL NOT NULL,
        touched_at REAL NOT NULL,
        claimed_at REAL,
        node TEXT,
        node_at REAL,
        others_at REAL,
        PRIMARY KEY (pool, key)
    ) WITHOUT ROWID
    """,
    "DROP INDEX IF EXISTS pins_by_idleness",
    "CREATE INDEX IF NOT EXISTS mortal_pins ON pins (touched_at) WHERE expires_at < 9e999",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class CorruptTableError(Exception):
    """The file holds no readable table. The message is SQLite's finding."""


def open_table(path: str, now: Callable[[], float]) -> tuple[sqlite3.Connection, str | None]:
    """Open the table, made anew where it is absent or corrupt.

    Returns:
        The connection, in autocommit mode and without a busy handler, and what was wrong with the
        file that had to be set aside (None where nothing was).

    Raises:
        StoreError: the file cannot be used; the message says what to do.
    """
    if sqlite3.sqlite_version_info < OLDEST_SQLITE:
        needed = ".".join(map(str, OLDEST_SQLITE))
        raise StoreError(
            f"SQLite {needed} or newer is needed, but this Python is linked to"
            f" {sqlite3.sqlite_version}: use a newer Python or operating system"
        )
    if path == IN_MEMORY:
        return _connect(path), None
    with _alone_with(path):
        try:
            return _connect(path), None
        except CorruptTableError as fault:
            return _begin_anew(path, now, str(fault))


def replace_table(
    path: str, now: Callable[[], float], fault: str
) -> tuple[sqlite3.Connection, str | None]:
    """Set the table aside, whatever a check would say of it, and open an empty one.

    The caller has closed its connection: one that is closed later would delete the log of the new
    table by its name. Returns and raises as `open_table` does.
    """
    if path == IN_MEMORY:
        return _connect(path), fault
    with _alone_with(path):
        return _begin_anew(path, now, fault)


def checkpoint(path: str) -> None:
    """Copy the write-ahead log into the table, and empty it where it has grown long.

    The copying goes on beside the writers, so under load it never arrives at the end of the log.
    Emptying makes them wait, while it holds the write lock: for the few pages that are left then.
    """
    with closing(sqlite3.connect(path, timeout=CHECKPOINT_WAIT_S, isolation_level=None)) as db:
        db.execute("PRAGMA synchronous = NORMAL").close()
        _busy, pages, _copied = db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchall()[0]
        if pages > LONG_LOG_PAGES:
            db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()


class CheckpointerLock:
    """The right to checkpoint, which one process at a time has; a dead one loses it."""

    def __init__(self, path: str) -> None:
        """Name the lock of the table at `path`; nothing is taken yet."""
        self._path = f"{path}.lock"
        self._fd: int | None = None

    def take(self) -> bool:
        """Whether the right is ours now, taken if it was free."""
        if self._fd is None:
            try:
                fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            except OSError as error:
                raise StoreError(explain(error, self._path)) from error
            if not _locked(fd):
                os.close(fd)
                return False
            self._fd = fd
        return True

    def give_back(self) -> None:
        """Let another process have it."""
        if self._fd is not None:
            os.close(self._fd)
            self._fd = None


def primary_code(error: sqlite3.Error) -> int:
    """SQLite's result code without its extension, -1 where the error has none."""
    code = getattr(error, "sqlite_errorcode", None)
    return -1 if code is None else code & 0xFF


def is_busy(error: sqlite3.Error) -> bool:
    """Whether another process held the table at this moment."""
    return primary_code(error) in {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED}


def is_corruption(error: sqlite3.Error) -> bool:
    """Whether the file itself is damaged."""
    return primary_code(error) in {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}


def explain(error: sqlite3.Error | OSError, path: str) -> str:
    """What failed, and what the operator can do about it."""
    if isinstance(error, OSError):
        return f"cannot use {path}: {error.strerror}; {_ADVICE_PATH}"
    advice = {
        sqlite3.SQLITE_FULL: "make room on its disk; known pins are still read",
        sqlite3.SQLITE_READONLY: _ADVICE_PATH,
        sqlite3.SQLITE_CANTOPEN: _ADVICE_PATH,
        sqlite3.SQLITE_PERM: _ADVICE_PATH,
        sqlite3.SQLITE_IOERR: "look for disk errors, quotas and a full disk",
        sqlite3.SQLITE_BUSY: "another process holds it locked: only the proxy may write to it",
    }.get(primary_code(error), "")
    return f"affinity table {path}: {error}" + (f"; {advice}" if advice else "")


_ADVICE_PATH = (
    "affinity.path must name a file in an existing local directory"
    f" where uid {os.geteuid()} may write"
)


def _begin_anew(path: str, now: Callable[[], float], fault: str) -> tuple[sqlite3.Connection, str]:
    stamp = datetime.fromtimestamp(now(), UTC).strftime("%Y%m%dT%H%M%S.%fZ")
    aside = f"{path}.corrupt-{stamp}"
    # The companions first: a log that outlived its database would be read into the new one.
    for suffix in ("-shm", "-wal", ""):
        with suppress(FileNotFoundError):
            Path(path + suffix).rename(aside + suffix)
    return _connect(path), f"{fault}; the file is kept as {aside}"


def _connect(path: str) -> sqlite3.Connection:
    if path != IN_MEMORY:
        _create_private(path)
    try:
        db = sqlite3.connect(
            path, timeout=OPEN_WAIT_S, isolation_level=None, check_same_thread=False
        )
    except sqlite3.Error as error:
        raise StoreError(explain(error, path)) from error
    try:
        _prepare(db, path)
    except BaseException as error:
        db.close()
        if isinstance(error, sqlite3.Error):
            if is_corruption(error):
                raise CorruptTableError(str(error)) from error
            raise StoreError(explain(error, path)) from error
        raise
    return db


def _create_private(path: str) -> None:
    """Make the file readable by its owner alone: the table tells who works where."""
    with suppress(FileExistsError):
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600))


def _prepare(db: sqlite3.Connection, path: str) -> None:
    finding = _value(db, "PRAGMA quick_check(1)")
    if finding != "ok":
        raise CorruptTableError(str(finding).replace("\n", " "))
    _refuse_foreign(db, path)
    mode = _value(db, "PRAGMA journal_mode = WAL")
    if mode != "wal" and path != IN_MEMORY:
        raise StoreError(
            f"{path} lies on a file system without shared memory (journal mode {mode}):"
            " put affinity.path on a local disk"
        )
    db.execute("PRAGMA synchronous = NORMAL").close()
    db.execute("PRAGMA wal_autocheckpoint = 0").close()
    db.execute("BEGIN IMMEDIATE").close()
    for statement in SCHEMA:
        db.execute(statement).close()
    db.execute("COMMIT").close()
    db.execute("PRAGMA busy_timeout = 0").close()  # its handler would stall the event loop


def _refuse_foreign(db: sqlite3.Connection, path: str) -> None:
    """Let no other program's database, and no newer table, be written to."""
    if not _value(db, "SELECT count(*) FROM sqlite_master"):
        return
    if _value(db, "PRAGMA application_id") != APPLICATION_ID:
        raise StoreError(f"{path} is another program's database: name another affinity.path")
    version = _value(db, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise StoreError(
            f"{path} has version {version} of the table, this program knows {SCHEMA_VERSION}:"
            " move the file away to start with an empty table"
        )


def _value(db: sqlite3.Connection, sql: str) -> object:
    return db.execute(sql).fetchall()[0][0]


@contextmanager
def _alone_with(path: str) -> Iterator[None]:
    """Open the table as the only one, so that nobody sets aside what another just made."""
    try:
        directory = Path(path).absolute().parent
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            deadline = time.monotonic() + OPEN_WAIT_S
            while not _locked(fd):
                if time.monotonic() > deadline:
                    raise StoreError(f"another process has been opening {path}: look for it")
                time.sleep(0.02)
            yield
        finally:
            os.close(fd)
    except OSError as error:
        raise StoreError(explain(error, path)) from error


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
