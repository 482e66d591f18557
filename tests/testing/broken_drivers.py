"""Drivers that break one promise each, otherwise like the example's; the docstring says what is wrong."""

import asyncio
import contextlib
import socket
import threading
import time
from typing import Any, Self

from millpond_lines import Line, LinesDriver

from millpond.driver import Verdict
from millpond.settings import PoolSettings


class IsPermanentIsAsync(LinesDriver):
    """The pool would take the coroutine for a yes."""

    async def is_permanent(self, error: BaseException) -> bool:  # type: ignore[override]
        return False


class HasNoReset(LinesDriver):
    """It was forgotten."""

    reset = None  # type: ignore[assignment]


class GivesOneConnectionToAll(LinesDriver):
    """A pool of one, inside the driver."""

    only: Line | None = None

    async def connect(self) -> Line:
        if self.only is None:
            self.only = await super().connect()
        return self.only


class ConnectHangs(LinesDriver):
    """It waits for a greeting that this server does not send."""

    async def connect(self) -> Line:
        conn = await Line.open(self.host, self.port)
        try:
            await conn.reader.readline()
        finally:
            self.terminate(conn)
        return conn


class ConnectBlocks(LinesDriver):
    """It asks a name server, synchronously."""

    async def connect(self) -> Line:
        time.sleep(0.2)  # noqa: ASYNC251 - that is what is wrong
        return await super().connect()


class ConnectSwallowsCancellation(LinesDriver):
    """One more attempt, whatever it was that ended the first."""

    async def connect(self) -> Line:
        with contextlib.suppress(asyncio.CancelledError):
            return await super().connect()
        return await super().connect()


class PingTurnsCancellationIntoAnError(LinesDriver):
    """Everything is a ConnectionError here."""

    async def ping(self, conn: Line) -> None:
        try:
            await super().ping(conn)
        except BaseException as error:
            raise ConnectionError("the ping failed") from error


class CancelledResetTakesItsTime(LinesDriver):
    """It insists on an answer first."""

    async def reset(self, conn: Line) -> None:
        try:
            await super().reset(conn)
        except asyncio.CancelledError:
            await asyncio.sleep(30)
            raise


class CancelledConnectLeaksItsSocket(LinesDriver):
    """Nobody closes what was open when the login was cancelled."""

    async def connect(self) -> Line:
        conn = await Line.open(self.host, self.port)
        await conn.ask(f"LOGIN {self.database} {self._password}")
        return conn


class FailedConnectLeaksItsSocket(LinesDriver):
    """It thinks of cancellations only."""

    async def connect(self) -> Line:
        conn = await Line.open(self.host, self.port)
        try:
            await conn.ask(f"LOGIN {self.database} {self._password}")
        except asyncio.CancelledError:
            self.terminate(conn)
            raise
        return conn


class CloseHangs(LinesDriver):
    """It waits for a goodbye that nobody says."""

    async def close(self, conn: Line) -> None:
        await conn.reader.read()


class CloseForgets(LinesDriver):
    """It leaves that to the garbage collector."""

    async def close(self, conn: Line) -> None:
        pass


class CloseHangsTheSecondTime(LinesDriver):
    """It waits for somebody else to finish what has been finished."""

    async def close(self, conn: Line) -> None:
        if conn.writer.is_closing():
            await asyncio.Event().wait()
        await super().close(conn)


class TerminateWaits(LinesDriver):
    """It says goodbye first."""

    def terminate(self, conn: Line) -> None:
        time.sleep(0.15)
        super().terminate(conn)


class TerminateRaisesTheSecondTime(LinesDriver):
    """Who calls it twice is told so."""

    def terminate(self, conn: Line) -> None:
        if conn.writer.is_closing():
            raise RuntimeError("already closed")
        super().terminate(conn)


class TerminateNeedsALoop(LinesDriver):
    """What the transport raises comes through when its loop is closed."""

    def terminate(self, conn: Line) -> None:
        conn.writer.transport.abort()


class TerminateOnlyMarks(LinesDriver):
    """The session goes on at the server."""

    def terminate(self, conn: Line) -> None:
        conn.is_dead = True  # type: ignore[attr-defined]

    def is_closed(self, conn: Line) -> bool:
        return hasattr(conn, "is_dead") or super().is_closed(conn)


class PingLies(LinesDriver):
    """It asks nobody."""

    async def ping(self, conn: Line) -> None:
        pass


class PingAlwaysFails(LinesDriver):
    """It expects the answer of another server."""

    async def ping(self, conn: Line) -> None:
        if await conn.ask("PING") != "pong":
            raise ConnectionError("not a pong")


class ResetHidesItsErrors(LinesDriver):
    """A reset that did nothing passes for one that did."""

    async def reset(self, conn: Line) -> None:
        with contextlib.suppress(ConnectionError):
            await super().reset(conn)


class ResetWorksOnce(LinesDriver):
    """The second time it finds nothing to do, and says so with an error."""

    async def reset(self, conn: Line) -> None:
        if hasattr(conn, "was_reset"):
            raise RuntimeError("nothing to reset")
        conn.was_reset = True  # type: ignore[attr-defined]
        await super().reset(conn)


class FullResetOnlyRollsBack(LinesDriver):
    """Settings go on to the next borrower."""

    async def reset(self, conn: Line) -> None:
        await conn.ask("ROLLBACK")


class ResetLeavesTheTransaction(LinesDriver):
    """A ping is no rollback."""

    async def reset(self, conn: Line) -> None:
        await self.ping(conn)


class LevelNoneKeepsATransaction(LinesDriver):
    """It takes `none` for: whatever."""

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        verdict = super().after_lease(conn, error)
        return Verdict.KEEP if self._level == "none" and conn.in_transaction else verdict


class KeepsAfterACancelledRequest(LinesDriver):
    """The next borrower reads the last one's answer."""

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        return Verdict.DISCARD if self.is_closed(conn) else Verdict.KEEP


class HasNoVerdict(LinesDriver):
    """Nothing was returned where all went well."""

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        return super().after_lease(conn, error) if error else None  # type: ignore[return-value]


class CondemnsForEveryError(LinesDriver):
    """A handler's ValueError costs a connection."""

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        return Verdict.DISCARD if error is not None else super().after_lease(conn, error)


class KeepsTheLost(LinesDriver):
    """It looks at the error only."""

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        return Verdict.DISCARD if isinstance(error, ConnectionError) else Verdict.RESET


class KeepsAfterConnectionErrors(LinesDriver):
    """It looks at nothing."""

    def after_lease(self, conn: Line, error: BaseException | None) -> Verdict:
        return Verdict.RESET


class NeverKnowsThatItIsClosed(LinesDriver):
    """Closed is what somebody has told it."""

    def is_closed(self, conn: Line) -> bool:
        return False


class KnowsOnlyItsOwnEnds(LinesDriver):
    """It does not look at the reader."""

    def is_closed(self, conn: Line) -> bool:
        return conn.writer.transport.is_closing() and hasattr(conn, "ended")

    def terminate(self, conn: Line) -> None:
        conn.ended = True  # type: ignore[attr-defined]
        super().terminate(conn)


class ThinksNothingPermanent(LinesDriver):
    """Wrong databases are tried again for ever."""

    def is_permanent(self, error: BaseException) -> bool:
        return False


class ThinksRefusalPermanent(LinesDriver):
    """A server that restarts would find nobody left who asks for it."""

    def is_permanent(self, error: BaseException) -> bool:
        return True


class ThinksARefusedConnectionPermanent(LinesDriver):
    """The same, for connects only."""

    def is_permanent(self, error: BaseException) -> bool:
        return super().is_permanent(error) or isinstance(error, ConnectionRefusedError)


class RepeatsItsPassword(LinesDriver):
    """What the server says of it reaches the log."""

    def redact(self, text: str) -> str:
        return text


class ShowsItsPassword(LinesDriver):
    """A repr for debugging."""

    def __repr__(self) -> str:
        return f"LinesDriver({vars(self)})"


class LeavesATask(LinesDriver):
    """A heartbeat that nobody stops."""

    async def connect(self) -> Line:
        conn = await super().connect()
        conn.heart = asyncio.create_task(asyncio.sleep(60), name="heartbeat")  # type: ignore[attr-defined]
        return conn


class LeavesAThread(LinesDriver):
    """A reader that nobody stops."""

    stop = threading.Event()  # for the test, so that it ends some time

    async def connect(self) -> Line:
        threading.Thread(target=self.stop.wait, name="reader", daemon=True).start()
        return await super().connect()


class LeavesASocket(LinesDriver):
    """A way to wake somebody up, for each connection."""

    kept: list[socket.socket] = []  # noqa: RUF012 - that is what is wrong

    async def connect(self) -> Line:
        self.kept += socket.socketpair()
        return await super().connect()


class DropsATaskThatFails(LinesDriver):
    """Nobody asks what became of it."""

    async def connect(self) -> Line:
        async def look() -> None:
            raise LookupError("no such thing")

        asyncio.create_task(look())  # noqa: RUF006 - that is what is wrong
        return await super().connect()


class NamesNoDescriptor(LinesDriver):
    """The child of a fork would leave the socket to the garbage collector."""

    def filenos(self, conn: Line) -> tuple[int, ...]:
        return ()


class NamesAStaleDescriptor(LinesDriver):
    """The number may be somebody else's by now."""

    def filenos(self, conn: Line) -> tuple[int, ...]:
        if not hasattr(conn, "number"):
            conn.number = super().filenos(conn)  # type: ignore[attr-defined]
        return conn.number  # type: ignore[attr-defined, no-any-return]


class KeepsASpare(LinesDriver):
    """Two sessions for one connection, of which the pool counts one."""

    async def connect(self) -> Line:
        conn = await super().connect()
        try:
            conn.spare = await super().connect()  # type: ignore[attr-defined]
        except BaseException:
            self.terminate(conn)
            raise
        return conn

    def terminate(self, conn: Line) -> None:
        super().terminate(conn)
        if hasattr(conn, "spare"):
            super().terminate(conn.spare)


class ConfiguresItself(LinesDriver):
    """Two pools of one driver would share a level."""

    def configured(self, settings: PoolSettings) -> Self:
        self._level = settings.reset
        return self


class TakesAnyOption(LinesDriver):
    """A typo passes as a default."""

    def __init__(self, **options: Any) -> None:
        known = {"host", "port", "database", "password"}
        super().__init__(**{name: value for name, value in options.items() if name in known})


class HasPositionalOptions(LinesDriver):
    """No configuration has an order."""

    def __init__(self, host: str, *, port: int, database: str = "main", password: str = "") -> None:
        super().__init__(host=host, port=port, database=database, password=password)
