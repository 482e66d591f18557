"""One scripted connection: a request/response session that remembers what its users leave behind."""

from __future__ import annotations

import asyncio
import enum
from collections import deque
from dataclasses import dataclass
from types import MappingProxyType
from typing import TYPE_CHECKING

from millpond.testing.faults import FaultKind
from millpond.testing.script import BackendError, ConnectionLost, ReadOnly, Verb, WrongAnswer

if TYPE_CHECKING:
    from collections.abc import Callable, Hashable, Mapping

    from millpond.settings import ResetLevel
    from millpond.testing.backend import ScriptedBackend


class Ending(enum.Enum):
    """What this side has done with a connection."""

    OPEN = "open"  # neither closed nor terminated, whatever the server did
    CLOSED = "closed"  # a polite close has succeeded
    TERMINATED = "terminated"  # cut


@dataclass(frozen=True, slots=True)
class Answer:
    """What the server says to one request.

    Attributes:
        to: the request.
        connection: number of the connection.
        variables: the session's variables when the server worked on it.
        in_transaction: whether a transaction was open then.
    """

    to: object
    connection: int
    variables: Mapping[str, object]
    in_transaction: bool


class ScriptedConnection:
    """One session on a `ScriptedBackend`; what a borrower gets.

    Attributes:
        number: of all connections of the backend, from 1.
        opened_at: when it was made, seconds on the loop's clock.
        read_only: the node behind it is no longer the primary.
        in_transaction: a transaction is open.
        variables: the session's variables.
        ending: what this side did with it.
        ended_at: when that was, seconds; None: it is open.
        died_at: when the server dropped it, seconds; None: it did not.
        borrowers: who uses it, as told by `backend.borrowed`.
        condemned: the driver's verdict on it was DISCARD or DISCARD_ALL.
        needs_reset: the driver's verdict was RESET, and it was not reset since.
        judged_by: `id()` of the error by which the driver judged it last; the error would keep frames alive.
        judgements: how often the driver was asked about it: after every lease, and about errors reported.
        uses: how often it was borrowed.
        tending: the driver's call that runs on it: a ping, a reset or a close.
        waits: the calls on it that wait, oldest first.
    """

    def __init__(
        self, backend: ScriptedBackend, number: int, *, at: float, level: ResetLevel, read_only: bool
    ) -> None:
        self.backend = backend
        self.number = number
        self.opened_at = at
        self.level: ResetLevel = level
        self.read_only = read_only
        self.in_transaction = False
        self.variables: dict[str, object] = {}
        self.ending = Ending.OPEN
        self.ended_at: float | None = None
        self.died_at: float | None = None
        self.borrowers: list[Hashable] = []
        self.condemned = False
        self.needs_reset = False
        self.judged_by = id(None)
        self.judgements = 0
        self.uses = 0
        self._dies_at: float | None = None
        self._dies_silently = False
        self._is_noticed = False
        self._clean_variables: dict[str, object] = {}
        self._answers: deque[tuple[int, Answer | BackendError]] = deque()
        self._sent = 0
        self._users: list[object] = []
        self.tending: Verb | None = None
        self.waits: dict[asyncio.Future[None], None] = {}

    def __repr__(self) -> str:
        state = self.ending.value
        if self.ending is Ending.OPEN and self.is_dead:
            state = "dead"
        words = [f"connection {self.number}", state, *self.dirt]
        return f"<Scripted {' '.join(words)}>"

    # -- what a borrower does ------------------------------------------------------------------

    async def request(self, question: object) -> Answer:
        """Send `question` and wait for its answer.

        Raises:
            WrongAnswer: another's answer came first.
            ConnectionLost: the connection is gone.
            ReadOnly: the node is no longer the primary.
        """
        return await self._ask(question)

    async def begin(self) -> None:
        """Open a transaction."""
        await self._ask("begin", lambda: setattr(self, "in_transaction", True))

    async def commit(self) -> None:
        """End the transaction."""
        await self._ask("commit", lambda: setattr(self, "in_transaction", False))

    async def rollback(self) -> None:
        """Give the transaction up."""
        await self._ask("rollback", lambda: setattr(self, "in_transaction", False))

    async def set(self, name: str, value: object) -> None:
        """Set a variable of the session."""
        await self._ask(f"set {name}", lambda: self.variables.update({name: value}))

    def send(self, question: object, effect: Callable[[], object] | None = None) -> int:
        """Send `question` without waiting; the server works on it at once. Returns the request's number.

        Args:
            question: anything.
            effect: what the server does to the session.

        Raises:
            ConnectionLost: the connection is gone.
        """
        self._note_user(question)
        self.notice()
        self._sent += 1
        answer: Answer | BackendError
        if self.read_only:
            answer = ReadOnly(f"connection {self.number} leads to a node that is not the primary")
        else:
            if effect is not None:
                effect()
            seen = MappingProxyType(dict(self.variables))
            answer = Answer(question, self.number, seen, self.in_transaction)
        self._answers.append((self._sent, answer))
        return self._sent

    async def receive(self, request: int) -> Answer:
        """Wait for the next answer; it should be the one to `request`.

        Raises:
            WrongAnswer: it is not.
            ConnectionLost: the connection is gone.
            ReadOnly: the node is no longer the primary.
        """
        try:
            await self.backend.act(Verb.REQUEST, self)
        except ConnectionLost:
            raise
        except Exception:
            self._take_answer(request)  # the error was the answer
            raise
        self.notice()
        answer = self._take_answer(request)
        if isinstance(answer, BackendError):
            raise answer
        return answer

    def mark_clean(self) -> None:
        """Declare the session's variables to be its clean state: for an `on_connect` hook."""
        self._clean_variables = dict(self.variables)

    def kill(self, *, silently: bool = False, after: float = 0.0) -> None:
        """Let the server drop this connection; `backend.kill` says how."""
        self.backend.kill(self, silently=silently, after=after)

    async def _ask(self, question: object, effect: Callable[[], object] | None = None) -> Answer:
        user = asyncio.current_task()
        request = self.send(question, effect)
        self._users.append(user)
        try:
            return await self.receive(request)
        finally:
            self._users.remove(user)
            if self.backend.is_shared:
                # Answers are told apart by number: one that nobody waits for is thrown away.
                self._answers = deque(entry for entry in self._answers if entry[0] != request)

    def _take_answer(self, request: int) -> Answer | BackendError:
        if self.backend.is_shared:
            # A shared session tells its answers apart by number.
            for entry in self._answers:
                if entry[0] == request:
                    self._answers.remove(entry)
                    return entry[1]
        if not self._answers:
            raise self._wrong(f"request {request} got no answer: another took it")
        number, answer = self._answers.popleft()
        if number != request:
            raise self._wrong(f"request {request} got the answer to request {number}")
        return answer

    def _wrong(self, what: str) -> WrongAnswer:
        self.backend.blame(FaultKind.WRONG_ANSWER, self, what)
        return WrongAnswer(f"connection {self.number}: {what}")

    def _note_user(self, question: object) -> None:
        user = asyncio.current_task()
        if self.ending is not Ending.OPEN:
            self.backend.blame(
                FaultKind.USED_AFTER_END, self, f"request {question!r} after {self.ending.value}"
            )
        elif not self.backend.is_shared and any(other is not user for other in self._users):
            self.backend.blame(
                FaultKind.TWO_BORROWERS, self, f"request {question!r} while another is under way"
            )
        elif not self.backend.is_shared and self.tending is not None:
            self.backend.blame(
                FaultKind.TENDED_WHILE_LENT, self, f"request {question!r} during a {self.tending}"
            )

    # -- what the backend and the driver ask ------------------------------------------------------

    @property
    def dirt(self) -> tuple[str, ...]:
        """What a borrower left behind, in words; empty when the session is clean."""
        words = ["unread answer"] if self.has_unread else []
        if self.in_transaction:
            words.append("open transaction")
        if self.variables != self._clean_variables:
            words.append("session variables")
        return tuple(words)

    @property
    def has_unread(self) -> bool:
        """True when an answer waits that the next user would take for its own."""
        return bool(self._answers) and not self.backend.is_shared

    @property
    def is_dead(self) -> bool:
        """True when the server has dropped it, known here or not."""
        if self.died_at is None and self._dies_at is not None and self.backend.now() >= self._dies_at:
            self.die(self._dies_at, silently=self._dies_silently)
        return self.died_at is not None

    @property
    def is_closed(self) -> bool:
        """True when this side knows that it is gone."""
        return self.ending is not Ending.OPEN or (self.is_dead and self._is_noticed)

    @property
    def gone_at(self) -> float | None:
        """Since when this side knows that it is gone, seconds on the loop's clock; None: it does not."""
        if not self.is_closed:
            return None
        return min(at for at in (self.ended_at, self.died_at) if at is not None)

    @property
    def is_alive(self) -> bool:
        """True when both sides keep it open."""
        return self.ending is Ending.OPEN and not self.is_dead

    def notice(self) -> None:
        """Touch the wire: raise `ConnectionLost` when the connection is gone."""
        if self.is_dead:
            self._is_noticed = True
        if self.is_closed:
            raise ConnectionLost(f"connection {self.number} is gone")

    def die(self, at: float, *, silently: bool) -> None:
        """The server drops it."""
        if self.died_at is None:
            self.died_at = at
            self._is_noticed = not silently
            if not silently:
                self._wake(f"connection {self.number} was closed by the server")

    def die_later(self, at: float, *, silently: bool) -> None:
        """The server will drop it; the loop's clock says when, no timer is set."""
        self._dies_at, self._dies_silently = at, silently

    def end(self, ending: Ending) -> None:
        """This side closes or cuts it."""
        self.ending = ending
        self.ended_at = self.backend.now()
        self._wake(f"connection {self.number} was {ending.value}")

    @property
    def dies_audibly_at(self) -> float | None:
        """When the server will drop it so that this side hears of it; None: it will not."""
        return self._dies_at if self.died_at is None and not self._dies_silently else None

    def clean(self, level: ResetLevel) -> None:
        """What a reset does: read away what is unread, then clean to `level`."""
        self._answers.clear()
        if level != "none":
            self.in_transaction = False
        if level == "full":
            self.variables = dict(self._clean_variables)
        self.needs_reset = False

    def _wake(self, why: str) -> None:
        for future in list(self.waits):
            if not future.done():
                future.set_exception(ConnectionLost(why))
