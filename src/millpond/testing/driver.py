"""A driver over a scripted backend: what a pool under test is given.

The backend and its scripts are in `backend` and `script`, its connections in
`session`, what it complains of in `faults`; all of it can be imported from here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from millpond.driver import Verdict
from millpond.testing.backend import Attempt, ScriptedBackend
from millpond.testing.faults import Fault, FaultKind, FaultsFound
from millpond.testing.script import (
    HANG_FOR_EVER,
    AccessDenied,
    BackendDown,
    BackendError,
    Behaviour,
    Call,
    ConnectionLost,
    Dawdle,
    Decision,
    Fail,
    Hang,
    Lose,
    Mixture,
    ReadOnly,
    Succeed,
    TooManyClients,
    Verb,
    WrongAnswer,
)
from millpond.testing.session import Answer, Ending, ScriptedConnection

if TYPE_CHECKING:
    from millpond.settings import PoolSettings, ResetLevel

__all__ = [
    "HANG_FOR_EVER",
    "AccessDenied",
    "Answer",
    "Attempt",
    "BackendDown",
    "BackendError",
    "Behaviour",
    "Call",
    "ConnectionLost",
    "Dawdle",
    "Decision",
    "Ending",
    "Fail",
    "Fault",
    "FaultKind",
    "FaultsFound",
    "Hang",
    "Lose",
    "Mixture",
    "ReadOnly",
    "ScriptedBackend",
    "ScriptedConnection",
    "ScriptedDriver",
    "Succeed",
    "TooManyClients",
    "Verb",
    "WrongAnswer",
]


class ScriptedDriver:
    """This drives a `ScriptedBackend` and reports to it what is asked of a connection at the wrong time.

    Args:
        backend: the world it connects to; None: a new one.
        name: the driver's name.
        level: how deep a reset cleans; `configured` takes it from a pool's settings.
        secrets: words that `redact` masks.
    """

    def __init__(
        self,
        backend: ScriptedBackend | None = None,
        *,
        name: str = "scripted",
        level: ResetLevel = "full",
        secrets: tuple[str, ...] = (),
    ) -> None:
        self.backend = ScriptedBackend() if backend is None else backend
        self.name = name
        self.level: ResetLevel = level
        self.secrets = secrets

    def __repr__(self) -> str:
        return f"<ScriptedDriver {self.name!r} reset={self.level} {self.backend!r}>"

    def configured(self, settings: PoolSettings) -> Self:
        """This driver with the reset level of `settings`, on the same backend."""
        return type(self)(self.backend, name=self.name, level=settings.reset, secrets=self.secrets)

    def redact(self, text: str) -> str:
        """`text` with `secrets` masked."""
        for secret in self.secrets:
            text = text.replace(secret, "***")
        return text

    async def connect(self) -> ScriptedConnection:
        """Open a session as the script says; leaves nothing behind when it is cancelled."""
        return await self.backend.open(self.level)

    async def ping(self, conn: ScriptedConnection) -> None:
        """Make one round trip.

        Raises:
            ConnectionLost: the connection is gone.
            ReadOnly: the node is no longer the primary.
            WrongAnswer: an unread answer came instead of the ping's.
        """
        await self._tend(Verb.PING, conn)
        if conn.has_unread:
            self._blame(FaultKind.WRONG_ANSWER, conn, "a ping got the answer to a request")
            raise WrongAnswer(f"connection {conn.number}: the ping got the answer to a request")
        if conn.read_only:
            raise ReadOnly(f"connection {conn.number} leads to a node that is not the primary")

    async def reset(self, conn: ScriptedConnection) -> None:
        """Clean the session to the configured level.

        Raises:
            ConnectionLost: the connection is gone.
            WrongAnswer: an unread answer came first, and the backend's verdict on those is not RESET.
        """
        await self._tend(Verb.RESET, conn)
        if conn.has_unread and self.backend.unread_verdict is not Verdict.RESET:
            self._blame(FaultKind.WRONG_ANSWER, conn, "a reset got the answer to a request")
            raise WrongAnswer(f"connection {conn.number}: the reset got the answer to a request")
        conn.clean(self.level)

    async def close(self, conn: ScriptedConnection) -> None:
        """Close politely; a connection that the server dropped meanwhile counts as closed."""
        if conn.ending is Ending.TERMINATED:
            self._blame(FaultKind.CLOSED_AFTER_TERMINATE, conn, "close() after terminate()")
            return
        if conn.ending is Ending.CLOSED or conn.tending is Verb.CLOSE:
            self._blame(FaultKind.CLOSED_TWICE, conn, "close() again")
            return
        # One that dies between the decision to close it and this call is nobody's fault.
        gone_at = conn.gone_at
        if conn.condemned or (gone_at is not None and gone_at < self.backend.instant()):
            why = "against the driver's verdict" if conn.condemned else "though known to be dead"
            self._blame(FaultKind.POLITE_TO_BROKEN, conn, f"closed politely {why}")
        await self._tend(Verb.CLOSE, conn)
        if conn.ending is Ending.OPEN:
            self.backend.end(conn, Ending.CLOSED)

    def terminate(self, conn: ScriptedConnection) -> None:
        """Cut the connection; calls that wait on it end with `ConnectionLost`."""
        if conn.backend is not self.backend:
            self._blame(FaultKind.FOREIGN, conn, "terminate() by the driver of another backend")
        elif conn.ending is Ending.TERMINATED:
            self._blame(FaultKind.TERMINATED_TWICE, conn, "terminate() again")
        elif conn.ending is Ending.CLOSED:
            self._blame(FaultKind.TERMINATED_AFTER_CLOSE, conn, "terminate() after close()")
        else:
            self.backend.end(conn, Ending.TERMINATED)

    def is_closed(self, conn: ScriptedConnection) -> bool:
        """True when this side knows that the connection is gone."""
        return conn.is_closed

    def after_lease(self, conn: ScriptedConnection, error: BaseException | None) -> Verdict:
        """Judge by what is known here: the error, unread answers, an open transaction, session state."""
        verdict = self._judge(conn, error)
        if self.backend.after_lease_script:
            verdict = self.backend.after_lease_script.popleft()
        elif self.backend.after_leases is not None:
            verdict = self.backend.after_leases(conn, error, verdict)
        conn.judged_by = id(error)
        conn.judgements += 1
        conn.condemned = conn.condemned or verdict in (Verdict.DISCARD, Verdict.DISCARD_ALL)
        conn.needs_reset = conn.needs_reset or verdict is Verdict.RESET
        if verdict is Verdict.DISCARD_ALL:
            self.backend.failovers.append(conn)
        return verdict

    def is_permanent(self, error: BaseException) -> bool:
        """True for an error with a true `permanent` attribute, or when the backend says so."""
        return getattr(error, "permanent", False) is True or self.backend.is_permanent(error)

    def _judge(self, conn: ScriptedConnection, error: BaseException | None) -> Verdict:
        if isinstance(error, ReadOnly):
            return Verdict.DISCARD_ALL
        if conn.is_closed:
            return Verdict.DISCARD
        if conn.has_unread:
            return self.backend.unread_verdict
        return Verdict.RESET if self.backend.dirty_for(conn) else self.backend.clean_verdict

    async def _tend(self, verb: Verb, conn: ScriptedConnection) -> None:
        """Do one call on a connection that nobody else may use meanwhile."""
        if conn.backend is not self.backend:
            self._blame(FaultKind.FOREIGN, conn, f"{verb} by the driver of another backend")
        elif conn.ending is not Ending.OPEN:
            self._blame(FaultKind.USED_AFTER_END, conn, f"{verb} after {conn.ending.value}")
        elif conn.tending is not None:
            self._blame(FaultKind.TENDED_TWICE, conn, f"{verb} during a {conn.tending}")
        elif conn.borrowers and not self.backend.is_shared:
            self._blame(FaultKind.TENDED_WHILE_LENT, conn, f"{verb} while lent")
        if verb is not Verb.CLOSE:
            conn.notice()
        conn.tending = verb
        try:
            await self.backend.act(verb, conn)
        except ConnectionLost:
            if verb is not Verb.CLOSE or conn.ending is not Ending.OPEN or not conn.is_dead:
                raise
        finally:
            conn.tending = None
        if verb is not Verb.CLOSE:
            conn.notice()

    def _blame(self, kind: FaultKind, conn: ScriptedConnection, detail: str) -> None:
        self.backend.blame(kind, conn, detail)
