"""SQLite on aiosqlite: every connection runs its statements in a thread of its own.

What a reset covers, by the pool's `reset` level:

    none      Nothing. A connection that comes back in a transaction, or with a statement
              still running, is discarded.
    rollback  A running statement is interrupted, statements that had not begun when their
              task was cancelled are dropped, open cursors are closed, an open transaction is
              rolled back; nothing is done when there is none of these.
    full      That, and after every lease: the session's pragmas, row and text factory,
              isolation level, attached databases, temporary tables, views and triggers, trace
              and progress handlers, the authorizer.

What stays at every level are functions, collations and extensions, which is what a pool's
`on_connect` is for. Factories and isolation level come back as it left them; its handlers and
pragmas do not outlive the first full reset: give pragmas as options.

Broken is a connection that was closed, and a file that is damaged, unreadable or no database.
A full disk, a busy database, any error of the borrower's own says nothing about the connection.

A file that is deleted or replaced while it is open would go on taking rows that nobody can
read. `commit()` looks for it and raises `Unfit` when it is gone, and so do resets and pings;
all connections to it are closed then. Statements that commit by themselves (`autocommit`, a
COMMIT as text) do not look: `commit()` after them does, also when there is nothing to commit.
"""

import asyncio
import contextlib
import copy
import errno
import os
import re
import sqlite3
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, ClassVar, Final, Literal, Self, TypeAlias, get_args

from millpond.driver import Verdict
from millpond.drivers import _options as check
from millpond.drivers._shared import chain, outlive_fork, quoted
from millpond.drivers._sqlite_session import Memory, Session, Worker
from millpond.errors import MissingExtra
from millpond.settings import PoolSettings, ResetLevel

try:
    import aiosqlite
except ModuleNotFoundError as missing:
    raise MissingExtra("sqlite", needed_for="SQLiteDriver", module="aiosqlite") from missing

JournalMode: TypeAlias = Literal["wal", "delete", "truncate", "persist", "memory", "off"]
Synchronous: TypeAlias = Literal["off", "normal", "full", "extra"]
IsolationLevel: TypeAlias = Literal["deferred", "immediate", "exclusive", "autocommit"]
RowFactory: TypeAlias = Literal["tuple", "row"]

MEMORY: Final = ":memory:"

_OPTION_PRAGMAS: Final = ("journal_mode", "synchronous", "foreign_keys", "busy_timeout")
_PRAGMA_NAME: Final = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")

_BUSY: Final = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})

# Between two attempts to set the journal mode, in seconds.
_JOURNAL_PAUSE: Final = 0.005
_FATAL: Final = frozenset(
    {sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_CANTOPEN}
)
_PERMANENT: Final = frozenset(
    {
        sqlite3.SQLITE_NOTADB,
        sqlite3.SQLITE_CORRUPT,
        sqlite3.SQLITE_READONLY,
        sqlite3.SQLITE_PERM,
        sqlite3.SQLITE_AUTH,
    }
)
_NO_DATABASE: Final = frozenset({sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_CORRUPT})
_NO_ACCESS: Final = frozenset(
    {sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_PERM, sqlite3.SQLITE_IOERR}
)
_NO_SUCH_PLACE: Final = frozenset({
    errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOTDIR, errno.EEXIST, errno.ENOENT, errno.ENAMETOOLONG,
    errno.ELOOP,
})  # fmt: skip


class CannotOpen(sqlite3.OperationalError):
    """The database cannot be opened as configured, and trying again will not help; the text says why."""


class SQLiteConnection(aiosqlite.Connection):
    """An aiosqlite connection whose thread can be stopped at once, from anywhere, with or without a loop.

    A statement whose task was cancelled before it began does not run.
    """

    _tx: Any

    def __init__(self, opened: Callable[[], Session]) -> None:
        self.worker = Worker(opened)
        super().__init__(self.worker.open, iter_chunk_size=64)
        self._tx = self.worker.orders
        # A daemon: a connection that nobody closed must not keep the process from ending.
        self._thread = threading.Thread(target=self.worker.run, name="millpond-sqlite", daemon=True)

    def stop(self) -> asyncio.Future[Any] | None:
        """Let the thread close and end once it has done what it was told before."""
        self._running = False
        try:
            future = asyncio.get_running_loop().create_future()
        except RuntimeError:
            future = None
        self.worker.orders.put_nowait((future, self.worker.close))
        return future

    def terminate(self) -> None:
        """Interrupt what runs, drop what waits, and let the thread close and end."""
        self.worker.is_condemned = True
        self.worker.interrupt()
        if self._running:
            self.stop()
        self._connection = None

    async def run(self, function: Callable[..., Any], *args: Any) -> Any:
        """Call `function` in the thread, after what it was told before."""
        return await self._execute(function, *args)  # type: ignore[no-untyped-call]

    @property
    def is_closed(self) -> bool:
        """True once it was closed, terminated, or its thread has ended."""
        return self._connection is None or not self._running or not self._thread.is_alive()

    @property
    def is_unsettled(self) -> bool:
        """There is a statement on its way, or an open transaction."""
        return self.worker.is_busy or self.in_transaction

    @property
    def is_orphaned(self) -> bool:
        """Its file was once seen to be gone from its path."""
        return self.worker.session is not None and self.worker.session.is_orphaned

    @property
    def session(self) -> Session:
        """The sqlite3 connection; for use in the connection's thread only."""
        session = self.worker.session
        if session is None:
            raise ValueError("no active connection")
        return session


class SQLiteDriver:
    """This opens one SQLite database with aiosqlite.

    Args:
        database: path of the file, relative ones from where the process is now; or `:memory:`,
            a database that all connections of this driver share and that ends with it.
        create: create a file that is not there, and the directories above it; False: refuse.
        journal_mode: of the file; with `wal`, readers and one writer do not wait for each
            other. A database in memory has none.
        synchronous: `full` means that a commit survives a power failure; with `normal` and
            `wal` the last ones may be lost, none is half done.
        foreign_keys: enforce foreign keys, which SQLite does only when asked.
        busy_timeout: the longest a statement waits for another's lock, seconds; 0: not at all.
        isolation_level: when Python opens transactions: before a write (`deferred`,
            `immediate`, `exclusive`: which lock it takes then), or not at all (`autocommit`).
        row_factory: what rows are: tuples, or `sqlite3.Row` (also by name).
        pragmas: more pragmas to set at connect, by name.

    Raises:
        ValueError: an option has a value that it cannot have; names the option.
    """

    kind: ClassVar[str] = "sqlite"
    schemes: ClassVar[tuple[str, ...]] = ("sqlite",)
    extra: ClassVar[str] = "sqlite"
    default_sizes: ClassVar[tuple[int, int]] = (1, 5)
    secret_options: ClassVar[frozenset[str]] = frozenset()

    name: str = "sqlite"

    def __init__(
        self,
        *,
        database: str,
        create: bool = True,
        journal_mode: JournalMode = "wal",
        synchronous: Synchronous = "full",
        foreign_keys: bool = True,
        busy_timeout: float = 5.0,
        isolation_level: IsolationLevel = "deferred",
        row_factory: RowFactory = "tuple",
        pragmas: Mapping[str, str | int] | None = None,
    ) -> None:
        check.text("database", database, optional=False)
        if database.startswith("file:"):
            raise ValueError("database: must be a path or ':memory:', not a file: URI")
        check.flag("create", create)
        check.one_of("journal_mode", journal_mode, get_args(JournalMode))
        check.one_of("synchronous", synchronous, get_args(Synchronous))
        check.flag("foreign_keys", foreign_keys)
        check.seconds("busy_timeout", busy_timeout, optional=False, zero=True)
        check.one_of("isolation_level", isolation_level, get_args(IsolationLevel))
        check.one_of("row_factory", row_factory, get_args(RowFactory))
        more = check.mapping("pragmas", pragmas, of=(str, int))
        for each in more:
            if not _PRAGMA_NAME.match(each):
                raise ValueError(f"pragmas: {each!r} cannot be the name of a pragma")
            if each.lower() in _OPTION_PRAGMAS:
                raise ValueError(f"pragmas: {each!r} is an option of its own")

        self.database = database
        self._memory = Memory() if database == MEMORY else None
        self._path = Path(database).absolute()
        self._create = create
        self._journal_mode = journal_mode
        self._pragmas = {"synchronous": synchronous, "foreign_keys": int(foreign_keys), **more}
        self._more_pragmas = tuple(more)
        self._busy_timeout = busy_timeout
        self._isolation_level = None if isolation_level == "autocommit" else isolation_level.upper()
        self._row_factory = sqlite3.Row if row_factory == "row" else None
        self._reset_level: ResetLevel = "full"

    @classmethod
    def options_from_url(cls, url: str) -> Mapping[str, Any]:
        """Options that `sqlite:///relative/path`, `sqlite:////absolute/path` or `sqlite://` (memory) says.

        After a `?`, options of this class may follow as key=value.

        Raises:
            ValueError: not such a URL.
        """
        scheme, separator, rest = url.partition("://")
        if not separator or scheme.lower() not in cls.schemes:
            raise ValueError("the URL must begin with sqlite://")
        path, _, query = rest.partition("?")
        if path and not path.startswith("/"):
            raise ValueError(
                "the URL must have three slashes before a relative path, four before an absolute one"
            )
        database = check.decoded(path.removeprefix("/")) or MEMORY
        return {"database": database, **check.from_query(check.pairs(query), _IN_URL, {})}

    @staticmethod
    def quote_identifier(*parts: str) -> str:
        """A name as an SQL identifier; `("schema", "table")` gives `"schema"."table"`.

        Raises:
            ValueError: a part is empty or holds NUL.
        """
        return quoted(*parts)

    def configured(self, settings: PoolSettings) -> Self:
        """A copy of this driver whose resets go to the level that `settings` names; it shares `:memory:`."""
        bound = copy.copy(self)
        bound._reset_level = settings.reset
        return bound

    def redact(self, text: str) -> str:
        """`text` as it is: this driver has no secrets."""
        return text

    def __repr__(self) -> str:
        return f"<SQLiteDriver {self.database}>"

    async def connect(self) -> SQLiteConnection:
        """Open one connection, in a new thread.

        Raises:
            CannotOpen: a missing file or directory, permissions, a pragma that does not hold.
            sqlite3.Error, OSError: anything else.
        """
        conn = SQLiteConnection(self._open)
        try:
            await conn
        except BaseException:
            conn.terminate()
            raise
        outlive_fork(conn)
        return conn

    async def ping(self, conn: SQLiteConnection) -> None:
        """Read the database's header; the file must still be the one that was opened.

        A database that another connection has locked is alive.

        Raises:
            Unfit: the file was deleted or replaced.
            sqlite3.Error, ValueError: the connection or the file is of no use.
        """
        await conn.run(self._look, conn.session)

    async def reset(self, conn: SQLiteConnection) -> None:
        """Interrupt what still runs, roll back, and at level `full` restore the session.

        It may wait for up to `busy_timeout` where a cancelled statement waits for a lock.

        Raises:
            Unfit: the file was deleted or replaced.
            sqlite3.Error, ValueError: it could not be done; terminate it.
        """
        conn.worker.interrupt()
        await conn.run(self._clean, conn.session)

    def remember(self, conn: SQLiteConnection) -> None:
        """Take factories and isolation level as they are for those that a full reset comes back to."""
        conn.session.remember()

    async def close(self, conn: SQLiteConnection) -> None:
        """Let it finish what it was told, close it, and wait for its thread."""
        await conn.close()

    def terminate(self, conn: SQLiteConnection) -> None:
        """Interrupt and stop it; its thread ends as soon as the interrupted statement has."""
        with contextlib.suppress(Exception):
            conn.terminate()

    def is_closed(self, conn: SQLiteConnection) -> bool:
        """True once it was closed, terminated, or its thread has ended."""
        return conn.is_closed

    def after_lease(self, conn: SQLiteConnection, error: BaseException | None) -> Verdict:
        """Judge a connection by what is known of it here, and by what `error` and its causes say."""
        if conn.is_orphaned or any(_says_file_is_gone(each) for each in chain(error)):
            return Verdict.DISCARD_ALL
        if conn.is_closed or any(_result_code(each) in _FATAL for each in chain(error)):
            return Verdict.DISCARD
        match self._reset_level:
            case "full":
                # What a pragma and its kind have done cannot be seen from here.
                return Verdict.RESET
            case "rollback":
                return Verdict.RESET if conn.is_unsettled or conn.session.has_cursors else Verdict.KEEP
            case _:
                return Verdict.DISCARD if conn.is_unsettled else Verdict.KEEP

    def is_permanent(self, error: BaseException) -> bool:
        """True for a file that is missing, forbidden or no database; not for a busy one or a full disk."""
        return any(isinstance(each, CannotOpen) or _result_code(each) in _PERMANENT for each in chain(error))

    async def server_version(self, conn: SQLiteConnection) -> str:
        """The library's version: there is no server."""
        return f"SQLite {sqlite3.sqlite_version}"

    def filenos(self, conn: SQLiteConnection) -> tuple[int, ...]:
        """None: SQLite does not say, and a child may leave them open without harm to the parent."""
        return ()

    # From here on: in the connection's thread.

    def _open(self) -> Session:
        try:
            if self._memory is not None:
                self._memory.keep()
            elif self._create:
                self._make_directory()
            session = sqlite3.connect(
                self._uri,
                uri=True,
                timeout=self._busy_timeout,
                isolation_level=self._isolation_level,  # type: ignore[arg-type]
                check_same_thread=False,  # for interrupt() and in_transaction; the rest stays in the thread
                factory=Session,
            )
            try:
                self._prepare(session)
            except BaseException:
                session.close()
                raise
        except sqlite3.DatabaseError as error:
            # Much of what is wrong with a file shows only at the first statement.
            why = self._why(error)
            if why is None:
                raise
            raise CannotOpen(f"cannot open {self.database!r}: {why}") from error
        return session

    @property
    def _uri(self) -> str:
        if self._memory is not None:
            return self._memory.uri
        return f"{self._path.as_uri()}?mode={'rwc' if self._create else 'rw'}"

    def _make_directory(self) -> None:
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            if error.errno not in _NO_SUCH_PLACE:
                raise
            raise CannotOpen(
                f"cannot open {self.database!r}: its directory cannot be made: {error.strerror}"
            ) from error

    def _prepare(self, session: Session) -> None:
        if self._memory is None:
            self._set_journal_mode(session)
            session.note_file(self._path)
        known = {name for (name,) in session.execute("PRAGMA pragma_list")}
        for name in self._more_pragmas:
            # SQLite itself ignores what it does not know.
            if known and name.lower() not in known:
                raise CannotOpen(f"pragmas: SQLite {sqlite3.sqlite_version} has no {name!r}")
        for name, value in self._pragmas.items():
            session.set_pragma(name, value)
        session.remember_pragmas()
        session.row_factory = self._row_factory
        session.remember()

    def _set_journal_mode(self, session: Session) -> None:
        # Asked first, because setting it takes a lock even where nothing changes.
        mode = session.pragma("journal_mode")
        patience = time.monotonic() + self._busy_timeout
        while mode != self._journal_mode:
            try:
                mode = session.set_pragma("journal_mode", self._journal_mode)
                break
            except sqlite3.OperationalError as error:
                # Two that change the mode at once would wait for each other for ever: SQLite fails one of
                # them at once, without the busy timeout. The other's change is what both wanted.
                if _result_code(error) not in _BUSY or time.monotonic() >= patience:
                    raise
            time.sleep(_JOURNAL_PAUSE)
            mode = session.pragma("journal_mode")
        if mode != self._journal_mode:
            raise CannotOpen(
                f"cannot open {self.database!r} with journal_mode {self._journal_mode!r}: it stays {mode!r}"
            )

    def _why(self, error: sqlite3.DatabaseError) -> str | None:
        """Why the file cannot be opened, where we can see it; SQLite says little, and not always the same."""
        code = _result_code(error)
        if code in _NO_DATABASE:
            return str(error)
        if self._memory is not None or code not in _NO_ACCESS:
            return None
        why = _fault_of_place(self._path, must_exist=not self._create)
        # Nothing to be seen, for example too many open files: that passes. But read-only stays so.
        return why or ("it is read-only" if code == sqlite3.SQLITE_READONLY else None)

    def _clean(self, session: Session) -> None:
        session.verify_file()
        if self._reset_level == "full":
            session.restore()
        else:
            session.roll_back()

    def _look(self, session: Session) -> None:
        session.verify_file()
        try:
            session.pragma("schema_version")
        except sqlite3.OperationalError as error:
            if _result_code(error) not in _BUSY:
                raise


def _result_code(error: BaseException) -> int | None:
    """SQLite's primary result code; None for what is not an error of SQLite's."""
    code = getattr(error, "sqlite_errorcode", None) if isinstance(error, sqlite3.Error) else None
    return None if code is None else code & 0xFF


def _fault_of_place(path: Path, *, must_exist: bool) -> str | None:
    """What about this path keeps a database from being opened there; None: nothing that can be seen."""
    directory = path.parent
    try:
        directory.stat()
    except PermissionError:
        return "permission denied"
    except OSError:
        return f"there is no directory {str(directory)!r}"
    if os.path.isdir(path):
        return "it is a directory"
    is_there = os.path.exists(path)
    if must_exist and not is_there and _may(directory, os.X_OK):
        return "there is no such file, and create is false"
    if os.statvfs(directory).f_flag & os.ST_RDONLY:
        return "its file system is read-only"
    if (is_there and not _may(path, os.R_OK | os.W_OK)) or not _may(directory, os.X_OK):
        return "permission denied"
    if not _may(directory, os.W_OK):
        # A database that can be written has a journal, which comes and goes.
        return f"permission denied to write beside it, in {str(directory)!r}"
    return None


def _may(path: Path, mode: int) -> bool:
    """Whether this process may, as who it is now; False too where the file system forbids it to everybody."""
    return os.access(path, mode, effective_ids=os.access in os.supports_effective_ids)


def _says_file_is_gone(error: BaseException) -> bool:
    """SQLite's own word for it, which it has only where there is no write-ahead log."""
    return getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_READONLY_DBMOVED


_IN_URL: Final[Mapping[str, Callable[[str], Any]]] = {
    **dict.fromkeys(("journal_mode", "synchronous", "isolation_level", "row_factory"), str),
    **dict.fromkeys(("create", "foreign_keys"), check.truth),
    "busy_timeout": float,
}
