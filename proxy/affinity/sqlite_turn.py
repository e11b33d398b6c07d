"""Turn: one transaction for all writes of one turn of the event loop (group commit).

Why: a commit costs ten times what a row does. Under load many clients are placed in one turn of the
loop, and pay for it together; a single one pays as before, and waits until the loop comes round.

Laws: nobody is told of success before the commit; a transaction that fails fails for all in it. It
takes the write lock at its beginning and keeps it for one turn, so others wait for milliseconds.
"""

from __future__ import annotations

import asyncio
import sqlite3
from collections.abc import Callable
from contextlib import suppress

from proxy.errors import StoreError


class Turn:
    """The transaction of the current turn, on a connection in autocommit mode.

    Args:
        on_committed: called after each commit.
        on_undone: called after each rollback.
        told: what a writer is told of the error behind it.
    """

    def __init__(
        self,
        db: sqlite3.Connection,
        on_committed: Callable[[], None],
        on_undone: Callable[[], None],
        told: Callable[[sqlite3.Error], StoreError],
    ) -> None:
        self._db = db
        self._on_committed = on_committed
        self._on_undone = on_undone
        self._told = told
        self._begun = False
        self._writers: list[asyncio.Future[None]] = []

    def join(self) -> bool:
        """Be within the transaction; True where it begins only now.

        Raises sqlite3.Error where others hold the table.
        """
        if self._begun:
            return False
        self._db.execute("BEGIN IMMEDIATE").close()
        self._begun = True
        asyncio.get_running_loop().call_soon(self.commit)
        return True

    async def committed(self) -> None:
        """Wait for the commit. Raises StoreError where it comes to nothing."""
        writer = asyncio.get_running_loop().create_future()
        self._writers.append(writer)
        await writer

    def commit(self) -> None:
        """End the transaction, if there is one."""
        if not self._begun:
            return
        try:
            self._db.execute("COMMIT").close()
        except sqlite3.Error as error:
            self.undo(error)
            return
        self._begun = False
        self._on_committed()
        for writer in self._take_writers():
            writer.set_result(None)

    def undo(self, error: sqlite3.Error) -> None:
        """Undo the transaction, if there is one, because of `error`."""
        if not self._begun:
            return
        self._begun = False
        with suppress(sqlite3.Error):  # SQLite has rolled back by itself after some errors
            self._db.execute("ROLLBACK").close()
        self._on_undone()
        for writer in self._take_writers():
            writer.set_exception(self._told(error))

    def _take_writers(self) -> list[asyncio.Future[None]]:
        writers, self._writers = self._writers, []
        return [writer for writer in writers if not writer.done()]  # done: its task was cancelled
