"""The thread's side of SQLite: a session that can be restored, and the thread that works on it.

All of it is the standard library's; what borrowers hold is aiosqlite's and lives in `sqlite`.
"""

import asyncio
import contextlib
import os
import queue
import sqlite3
import threading
import uuid
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeAlias

from millpond.drivers._shared import Unfit, quoted

# Pragmas that belong to a session, not to the file. What they were after connecting, they are after a reset.
_SESSION_PRAGMAS: Final = (
    "query_only",
    "foreign_keys",
    "recursive_triggers",
    "ignore_check_constraints",
    "read_uncommitted",
    "reverse_unordered_selects",
    "legacy_alter_table",
    "trusted_schema",
    "writable_schema",
    "automatic_index",
    "synchronous",
    "busy_timeout",
    "locking_mode",
    "secure_delete",
    "temp_store",
    "cache_size",
    "cache_spill",
    "journal_size_limit",
    "wal_autocheckpoint",
    "max_page_count",
    "mmap_size",
    "threads",
    "analysis_limit",
    "cell_size_check",
    "fullfsync",
    "checkpoint_fullfsync",
    # Deprecated, but they change what every statement answers.
    "full_column_names",
    "short_column_names",
    "count_changes",
    "empty_result_callbacks",
    # Last, for it takes a lock. With "off" there is no way to roll back.
    "journal_mode",
)


class Session(sqlite3.Connection):
    """A sqlite3 connection that can be brought back to the state it was opened in."""

    opened_row_factory: Any = None
    opened_text_factory: Any = str
    opened_isolation_level: Any = None
    opened_pragmas: Mapping[str, Any]
    opened_path: Path | None = None  # None: a database in memory
    opened_file: tuple[int, int] | None = None  # device and inode; an open file's are given to no other
    is_orphaned = False  # its file was once seen to be gone from its path

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # A cursor that still has rows to give keeps its snapshot of the database open, and with it
        # the next borrower in the past.
        self._cursors: weakref.WeakSet[sqlite3.Cursor] = weakref.WeakSet()

    def cursor(self, *args: Any, **kwargs: Any) -> Any:
        cursor = super().cursor(*args, **kwargs)
        self._cursors.add(cursor)
        return cursor

    # The base class makes the cursors of these three without asking `cursor()`.
    def execute(self, *args: Any) -> Any:
        return self.cursor().execute(*args)

    def executemany(self, *args: Any) -> Any:
        return self.cursor().executemany(*args)

    def executescript(self, *args: Any) -> Any:
        return self.cursor().executescript(*args)

    @property
    def has_cursors(self) -> bool:
        return len(self._cursors) > 0

    def pragma(self, name: str) -> Any:
        """The value of a pragma; None when SQLite gives none."""
        row = self.execute(f"PRAGMA {name}").fetchone()
        return None if row is None else row[0]

    def set_pragma(self, name: str, value: str | int) -> Any:
        """Set a pragma and return what SQLite answers; None when it does not."""
        literal = "'" + value.replace("'", "''") + "'" if isinstance(value, str) else str(int(value))
        row = self.execute(f"PRAGMA {name} = {literal}").fetchone()
        return None if row is None else row[0]

    def remember_pragmas(self) -> None:
        """Take the pragmas as they are for those to come back to."""
        self.opened_pragmas = {name: self.pragma(name) for name in _SESSION_PRAGMAS}

    def remember(self) -> None:
        """Take factories and isolation level as they are for those to come back to; from any thread."""
        self.opened_isolation_level = self.isolation_level
        self.opened_row_factory, self.opened_text_factory = self.row_factory, self.text_factory

    def note_file(self, path: Path) -> None:
        """Take the file at `path` for the one that is open.

        Raises:
            Unfit: there is none any more.
        """
        self.opened_path, self.opened_file = path, _file_at(path)
        self.verify_file()

    def verify_file(self) -> None:
        """See that the path still leads to the file that is open; one look at the directory.

        SQLite does not look: it goes on writing to a file that nobody can find.

        Raises:
            Unfit: the file was deleted or replaced.
        """
        if self.opened_path is None:
            return
        if self.opened_file is None or _file_at(self.opened_path) != self.opened_file:
            self.is_orphaned = True
            raise Unfit(f"the file {str(self.opened_path)!r} was deleted or replaced")

    def commit(self) -> None:
        """Commit to a file that others can find.

        Raises:
            Unfit: it was committed to a file that is gone: nobody will read it.
        """
        super().commit()
        # Afterwards: a file that goes away later takes with it what was stored, as files do.
        self.verify_file()

    def roll_back(self) -> None:
        """Close what is open: cursors and a transaction."""
        for cursor in list(self._cursors):
            cursor.close()
        if self.in_transaction:
            self.rollback()

    def _drop_temporary(self) -> None:
        listed = "SELECT name FROM sqlite_temp_master WHERE type = ? AND name NOT LIKE 'sqlite@_%' ESCAPE '@'"
        for kind in ("trigger", "view", "table"):
            for (name,) in self.execute(listed, (kind,)).fetchall():
                self.execute(f"DROP {kind} temp.{quoted(name)}")

    def restore(self) -> None:
        """Come back to the state remembered.

        Raises:
            sqlite3.OperationalError: another connection is in the way of the journal mode.
        """
        self.set_authorizer(None)  # first: it may forbid the rest
        self.set_progress_handler(None, 0)
        self.set_trace_callback(None)
        self.row_factory = None
        self.text_factory = str
        self.isolation_level = self.opened_isolation_level
        self.roll_back()
        databases = [name for _, name, _ in self.execute("PRAGMA database_list").fetchall()]
        for name in databases:
            if name not in ("main", "temp"):
                self.execute(f"DETACH DATABASE {quoted(name)}")
        if "temp" in databases:  # it is there once somebody has used it
            self._drop_temporary()
        for name, value in self.opened_pragmas.items():
            if value is not None and self.pragma(name) != value:
                self.set_pragma(name, value)
                if name == "journal_mode" and self.pragma(name) != value:
                    raise sqlite3.OperationalError("the journal mode does not come back")
        self.row_factory, self.text_factory = self.opened_row_factory, self.opened_text_factory


def _file_at(path: Path) -> tuple[int, int] | None:
    """Which file the path means now; None: no file."""
    try:
        status = os.stat(path)
    except OSError:
        return None
    return status.st_dev, status.st_ino


_Order: TypeAlias = tuple[asyncio.Future[Any] | None, Callable[[], Any]]


class _Orders(queue.SimpleQueue[_Order]):
    """What the thread has to do; counts what was put in, so that nobody has to ask the thread."""

    given = 0

    def put_nowait(self, item: _Order) -> None:
        self.given += 1
        super().put_nowait(item)


class Worker:
    """The thread's side of a connection: it opens, runs orders one by one, and closes.

    It knows nothing of the loop but how to answer, so that it ends in order when the
    loop was closed first.
    """

    def __init__(self, opened: Callable[[], Session]) -> None:
        self.orders = _Orders()
        self.session: Session | None = None
        self.is_condemned = False  # whatever has not begun shall not begin
        self._opened = opened
        self._done = 0

    @property
    def is_busy(self) -> bool:
        return self.orders.given != self._done

    def open(self) -> Session:
        self.session = self._opened()
        return self.session

    def close(self) -> None:
        if self.session is not None:
            self.session.close()

    def interrupt(self) -> None:
        """Make the running statement fail; from any thread. One that waits for a lock goes on waiting."""
        if self.is_busy and self.session is not None:
            with contextlib.suppress(sqlite3.ProgrammingError):  # closed meanwhile
                self.session.interrupt()

    def run(self) -> None:
        is_over = False
        while not is_over:
            future, order = self.orders.get()
            is_over = order == self.close
            result: Any = None
            error: BaseException | None = None
            try:
                if is_over or not (self.is_condemned or (future is not None and future.cancelled())):
                    result = order()
                elif self.is_condemned:
                    error = sqlite3.ProgrammingError("the connection was terminated")
            except BaseException as raised:
                error = raised
            # Before the answer: whoever has it in hand must find the thread at rest.
            self._done += 1
            if future is not None:
                with contextlib.suppress(RuntimeError):  # the loop is closed: nobody waits any more
                    future.get_loop().call_soon_threadsafe(_settle, future, result, error)
            # Nothing may stay alive only because the thread was last busy with it.
            del future, order, result, error


def _settle(future: asyncio.Future[Any], result: Any, error: BaseException | None) -> None:
    if future.done():
        return
    if error is None:
        future.set_result(result)
    else:
        future.set_exception(error)


class Memory:
    """A database in memory that lives as long as this object, however many connections come and go."""

    def __init__(self) -> None:
        # The name begins with a slash: that makes it one database for the whole process. Connections lock
        # it as they would a file, other than with SQLite's discouraged shared cache.
        self.uri = f"file:/millpond-{uuid.uuid4().hex}?vfs=memdb"
        self._lock = threading.Lock()
        self._is_kept = False

    def keep(self) -> None:
        """Hold the database with a connection of our own; from any thread, any number of times."""
        with self._lock:
            if not self._is_kept:
                anchor = sqlite3.connect(self.uri, uri=True, check_same_thread=False)
                weakref.finalize(self, anchor.close)
                self._is_kept = True
