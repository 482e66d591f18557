"""PostgreSQL connections on psycopg 3.

libpq tells of a refused connect only in words, without the server's code: what they say is read in
English, and a server that refuses in another language is asked again instead of given up on.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import select
import socket
import ssl as tls
from collections.abc import Generator, Iterator
from typing import Any, ClassVar, Final

from millpond.drivers._postgresql_refusals import Refusal, refusal_in
from millpond.drivers._postgresql_session import (
    CLEAN_SESSION,
    DEALLOCATE_PREPARED,
    FITNESS,
    NOTHING_PREPARED,
    Target,
    rows_of,
)
from millpond.drivers._shared import ask, outlive_fork
from millpond.drivers._tls import BadTlsFile, tls_context
from millpond.errors import MissingExtra

try:
    import psycopg
    from psycopg import errors as pg
    from psycopg import generators, pq, waiting
    from psycopg._conninfo_attempts_async import conninfo_attempts_async
except ImportError as missing:  # also where it finds no libpq
    raise MissingExtra("psycopg", needed_for="PostgreSQLDriver", module="psycopg") from missing

# The longest that a cancelled statement may take to end before its connection is closed, seconds; twice:
# for the request and for the acknowledgement. psycopg's own limits are five seconds each.
_PATIENCE_S: Final = 0.5
_LOOK_AGAIN_S: Final = 0.1  # as psycopg waits: so often it looks up without having heard anything
_KEEPALIVE_PROBES: Final = 3
_ERRORS: Final = (pq.ExecStatus.FATAL_ERROR, pq.ExecStatus.BAD_RESPONSE)
# Asked at every lease: an attribute of an enum is looked up, and compared, more slowly than a number.
_OK: Final = int(pq.ConnStatus.OK)
_IDLE: Final = int(pq.TransactionStatus.IDLE)
_PIPELINE_OFF: Final = int(pq.PipelineStatus.OFF)
_AT_REST: Final = (_IDLE, int(pq.TransactionStatus.INTRANS), int(pq.TransactionStatus.INERROR))
_CLEAN_SESSION: Final = CLEAN_SESSION.encode()
_NOTHING_PREPARED: Final = NOTHING_PREPARED.encode()
_PEER_HUNG_UP: Final = getattr(select, "POLLRDHUP", 0)  # others tell it by POLLHUP, which is always asked

# SQLSTATE, or the class of it: 08 connection exception; 57P admin shutdown and its kind; 25P03 idle in
# transaction for too long; 26000: the server has forgotten statements that psycopg still counts on.
_FATAL: Final = ("08", "57P", "25P03", "26000")


class PsycopgConnection(psycopg.AsyncConnection[Any]):
    """A psycopg connection that knows in what state it is, and comes back to what it was."""

    library: ClassVar[str] = "psycopg"

    _is_doomed = False
    _is_tended = False
    _waiting = 0
    _fresh: dict[str, Any]
    _target: Target
    _home: asyncio.AbstractEventLoop

    @classmethod
    async def open(cls, target: Target) -> PsycopgConnection:
        """Connect and log in; cancelled, it leaves nothing behind."""
        errors: list[psycopg.Error] = []
        for attempt in await conninfo_attempts_async(await _conninfo(target)):
            conninfo = psycopg.conninfo.make_conninfo("", **attempt)
            pgconn = pq.PGconn.connect_start(conninfo.encode())
            try:
                # Not psycopg's own connect(): cancelled, that leaves the session to the garbage collector.
                await waiting.wait_conn_async(_logged_in(pgconn), interval=_LOOK_AGAIN_S)
            except psycopg.OperationalError as error:
                pgconn.finish()
                errors.append(error)
                continue
            except BaseException:
                pgconn.finish()
                raise
            pgconn.nonblocking = 1
            return cls(pgconn)._settled_in(target)
        raise errors[-1].with_traceback(None)

    def _settled_in(self, target: Target) -> PsycopgConnection:
        self._target = target
        self._autocommit = target.autocommit
        self.prepare_threshold = 5 if target.statement_cache_size else None
        self.prepared_max = target.statement_cache_size
        self._home = asyncio.get_running_loop()
        self._poll = select.poll() if hasattr(select, "poll") else None
        if self._poll is not None:
            self._poll.register(self.pgconn.socket, _PEER_HUNG_UP)
        self.remember()
        outlive_fork(self)
        return self

    # -- what is known without asking -----------------------------------------------------------

    @property
    def is_lost(self) -> bool:
        """True when psycopg knows it, which it does not before it is used, or when the kernel does."""
        if self._is_doomed or self.pgconn.status != _OK:
            return True
        poll = self._poll
        return poll is not None and bool(poll.poll(0))

    @property
    def is_unfinished(self) -> bool:
        """Somebody is still at it, an answer is only half read, or a block was not left."""
        pgconn = self.pgconn
        return bool(
            pgconn.transaction_status not in _AT_REST
            or self._waiting
            or self.lock.locked()
            or self._pipeline is not None
            or pgconn.pipeline_status != _PIPELINE_OFF
            or self._num_transactions
            or self._tpc is not None
        )

    @property
    def is_unsettled(self) -> bool:
        """There is something that a rollback has to see to before the next borrower."""
        return self.pgconn.transaction_status != _IDLE or self._autocommit != self._target.autocommit

    @property
    def reported(self) -> tuple[bool, bool] | None:
        """Whether the node is a standby, and read-only, as it last reported."""
        standby = self.pgconn.parameter_status(b"in_hot_standby")
        read_only = self.pgconn.parameter_status(b"default_transaction_read_only")
        return None if standby is None or read_only is None else (standby == b"on", read_only == b"on")

    def filenos(self) -> tuple[int, ...]:
        """The socket's descriptor; empty once it is closed."""
        is_open = not self._is_doomed and self.pgconn.status == pq.ConnStatus.OK
        return (self.pgconn.socket,) if is_open else ()

    # -- waiting, and giving up -----------------------------------------------------------------

    async def wait(
        self,
        gen: Generator[Any, Any, Any],
        interval: float = _LOOK_AGAIN_S,
        timeout: float | None = None,
    ) -> Any:
        """As psycopg's, but a cancellation takes a second at most, and nobody closes the socket under it."""
        self._waiting += 1
        try:
            return await waiting.wait_async(gen, self.pgconn.socket, interval=interval, timeout=timeout)
        except asyncio.CancelledError:
            await self._give_up(gen)
            raise
        finally:
            self._waiting -= 1
            if self._is_doomed and not self._waiting:
                self.pgconn.finish()

    async def _give_up(self, gen: Generator[Any, Any, Any]) -> None:
        """Have the server end the statement under way, or else close the connection."""
        if self.pgconn.transaction_status != pq.TransactionStatus.ACTIVE:
            return
        # The pool, when it gives up, will terminate it anyway. Before libpq 17 a cancel request blocks.
        if self._is_tended or self._is_doomed or not psycopg.capabilities.has_cancel_safe():
            self.cut_off()
            return
        is_settled = False
        try:
            await self.cancel_safe(timeout=_PATIENCE_S)
            await waiting.wait_async(gen, self.pgconn.socket, interval=_LOOK_AGAIN_S, timeout=_PATIENCE_S)
            is_settled = True
        except Exception:  # the cancellation goes on; where the statement is still under way, without it
            is_settled = self.pgconn.transaction_status in _AT_REST
        finally:
            if not is_settled:
                self.cut_off()

    def cut_off(self) -> None:
        """Close at once, in whatever state it is; never raises."""
        with contextlib.suppress(Exception):
            if not self._waiting or self._home.is_closed():
                self.pgconn.finish()
            elif not self._is_doomed and self.pgconn.status == pq.ConnStatus.OK:
                # Somebody waits for this descriptor: closed now, its number could be another connection's
                # by the time he wakes up. He hears the end at once, and closes it.
                self._is_doomed = True
                with socket.socket(fileno=os.dup(self.pgconn.socket)) as wire:
                    wire.shutdown(socket.SHUT_RDWR)

    @property
    def version(self) -> str:
        return str(self.info.parameter_status("server_version"))

    async def hang_up(self) -> None:
        """Say goodbye and close."""
        await self.close()

    # -- what the pool asks ---------------------------------------------------------------------

    async def settle(self) -> None:
        """Roll back what is open, and set autocommit back."""
        self._refuse_if_unfinished()
        with self._tended():
            await self.rollback()
        self._autocommit = self._target.autocommit

    async def clean(self) -> None:
        """Bring the settled session back to what it was after connecting, and the client's side too."""
        *_, prepared = await self._ask(_CLEAN_SESSION)
        if prepared.command_status != _NOTHING_PREPARED:
            await self._ask(DEALLOCATE_PREPARED.encode())
        self._notifies_backlog = type(self._notifies_backlog or [])()  # type: ignore[assignment] # a deque
        self._put_back(self._fresh)

    async def answer(self) -> None:
        """Make a round trip."""
        await self._ask(b"SELECT 1")

    async def fitness(self) -> tuple[bool, bool]:
        """Ask whether the node is a standby, and read-only."""
        (result,) = await self._ask(FITNESS.encode())
        return result.get_value(0, 0) == b"t", result.get_value(0, 1) == b"on"

    async def store(self, statement: str, *values: str) -> int:
        """Run one statement with `$1` and on, committed when this returns; says how many rows it touched."""
        async with psycopg.AsyncRawCursor(self) as cursor:
            await cursor.execute(statement, values)
            stored = rows_of(cursor.statusmessage or "")
        await self.commit()
        return stored

    async def run(self, statement: str) -> None:
        """Run one statement without values, committed when this returns."""
        async with psycopg.AsyncRawCursor(self) as cursor:
            await cursor.execute(statement)
        await self.commit()

    async def _ask(self, statements: bytes) -> list[Any]:
        """The results of statements, asked past cursors: no transaction begins, nothing is prepared."""
        self._refuse_if_unfinished()
        with self._tended():
            async with self.lock:
                results: list[Any] = await self.wait(_asked(self.pgconn, statements))
        for result in results:
            if result.status in _ERRORS:
                raise pg.error_from_result(result, encoding="utf-8")
        return results

    def _refuse_if_unfinished(self) -> None:
        self._check_connection_ok()
        if self.is_unfinished:
            raise psycopg.InterfaceError("another operation is in progress, or was given up in the middle")

    @contextlib.contextmanager
    def _tended(self) -> Iterator[None]:
        self._is_tended = True
        try:
            yield
        finally:
            self._is_tended = False

    # -- the client's side of a session ---------------------------------------------------------

    def remember(self) -> None:
        """Take the client's side as it is for the one to come back to."""
        self._fresh = {
            **{name: vars(self)[name] for name in _CLIENT_STATE},
            "_notice_handlers": tuple(self._notice_handlers),
            "_notify_handlers": tuple(self._notify_handlers),
            "_adapters": psycopg.adapt.AdaptersMap(self.adapters),
            "prepare_threshold": self.prepare_threshold,
            "prepared_max": self.prepared_max,
        }

    def _put_back(self, fresh: dict[str, Any]) -> None:
        vars(self).update({name: fresh[name] for name in _CLIENT_STATE})
        self._notice_handlers[:] = fresh["_notice_handlers"]
        self._notify_handlers[:] = fresh["_notify_handlers"]
        self._adapters = psycopg.adapt.AdaptersMap(fresh["_adapters"])
        self.prepare_threshold = fresh["prepare_threshold"]
        self.prepared_max = fresh["prepared_max"]

    # -- errors ---------------------------------------------------------------------------------

    @staticmethod
    def is_fatal(error: BaseException) -> bool:
        """The connection is of no use after this, whatever psycopg has noticed so far."""
        return isinstance(error, psycopg.Error) and (error.sqlstate or "").startswith(_FATAL)

    @staticmethod
    def is_demotion(error: BaseException) -> bool:
        """A write was refused because it was to be read-only."""
        return isinstance(error, pg.ReadOnlySqlTransaction)

    @staticmethod
    def is_refusal(error: BaseException) -> bool:
        """A server, asked again, would only say it again: about where to, and with which settings."""
        return isinstance(error, BadTlsFile) or _said(error) in (
            Refusal.DATABASE,
            Refusal.SETTING,
            Refusal.CERTIFICATE,
        )

    @staticmethod
    def is_about_credentials(error: BaseException) -> bool:
        """As `is_refusal`, about who we are."""
        return _said(error) in (Refusal.PASSWORD, Refusal.USER)

    @staticmethod
    def key_of(error: BaseException) -> str | None:
        """The option that a failed connect points at; None: nobody can tell."""
        said = _said(error)
        return None if said is None else said.value


# Assigned as they are; what has a setter of its own is put back through it.
_CLIENT_STATE: Final = (
    "row_factory", "cursor_factory", "server_cursor_factory",
    "_isolation_level", "_read_only", "_deferrable", "_begin_statement",
)  # fmt: skip


def _said(error: BaseException) -> Refusal | None:
    is_of_a_connect = isinstance(error, psycopg.OperationalError) and error.sqlstate is None
    return refusal_in(str(error)) if is_of_a_connect else None


def _logged_in(pgconn: Any) -> Generator[Any, Any, None]:
    """Poll a connection that has been started, until it is there."""
    while True:
        if pgconn.status == pq.ConnStatus.BAD:
            raise psycopg.OperationalError(f"connection is bad: {pgconn.get_error_message()}")
        match pgconn.connect_poll():
            case pq.PollingStatus.OK:
                return
            case pq.PollingStatus.READING:
                wanted = waiting.Wait.R
            case pq.PollingStatus.WRITING:
                wanted = waiting.Wait.W
            case _:
                raise psycopg.OperationalError(f"connection failed: {pgconn.get_error_message()}")
        while not (yield pgconn.socket, wanted):
            pass


def _asked(pgconn: Any, statements: bytes) -> Generator[Any, Any, list[Any]]:
    pgconn.send_query(statements)
    results: list[Any] = yield from generators.execute(pgconn)
    return results


async def _conninfo(target: Target) -> dict[str, Any]:
    """What libpq is told; what is left out would come from the environment."""
    settings = dict(target.settings)
    said: dict[str, Any] = {
        "host": target.host,
        "hostaddr": "",
        "port": target.port,
        "dbname": target.database,
        "user": target.user,
        "application_name": settings.pop("application_name"),
        "client_encoding": "UTF8",
        "target_session_attrs": "any",
        "gssencmode": "disable",
        # PgBouncer refuses startup options: none are sent unless there are some.
        "options": " ".join(f"-c {_escaped(name)}={_escaped(value)}" for name, value in settings.items()),
        "keepalives": int(target.keepalive is not None),
        **await _tls(target),
    }
    if target.password is not None:
        said["password"] = await ask(target.password, target.secrets)
    if target.keepalive is not None:
        said["keepalives_idle"] = max(1, round(target.keepalive))
        said["keepalives_interval"] = max(1, round(target.keepalive / 3))
        said["keepalives_count"] = _KEEPALIVE_PROBES
    if target.user_timeout is not None:
        said["tcp_user_timeout"] = max(1, round(target.user_timeout * 1000))
    return {name: value for name, value in said.items() if value is not None}


async def _tls(target: Target) -> dict[str, str | None]:
    if target.ssl in ("disable", "prefer") or target.host.startswith("/"):
        return {"sslmode": target.ssl}
    files = target.ssl_files
    await tls_context(target.ssl, files)  # says which file cannot be used, and why, better than libpq
    root = files.root_cert
    if root is None and target.ssl.startswith("verify-"):
        # The libpq that comes in a wheel has an OpenSSL that looks elsewhere than the system's.
        root = tls.get_default_verify_paths().cafile or "system"
    return {
        "sslmode": target.ssl,
        "sslrootcert": root,
        "sslcert": files.cert,
        "sslkey": files.key or files.cert,
    }


def _escaped(word: str) -> str:
    """A word of libpq's `options`, in which spaces and backslashes have a meaning."""
    return "".join(f"\\{letter}" if letter.isspace() or letter == "\\" else letter for letter in word)
