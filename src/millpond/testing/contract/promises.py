"""What a driver promises to the pool: what each promise says, and what to change when it is broken."""

from __future__ import annotations

import enum
from typing import Self


class Promise(enum.Enum):
    """One promise of the `Driver` protocol; the value is what it says and what usually mends it."""

    says: str
    change: str

    PROTOCOL = (
        "a driver has all of the Driver protocol; connect, ping, reset and close are async, the rest is not",
        "add what is missing; what is not async must do no I/O",
    )
    CONNECT = (
        "connect() returns a connection that is open, answers, and is nobody else's",
        "log in before returning, and make a new connection for each call",
    )
    NOT_BLOCKING = (
        "no call holds up the event loop",
        "use the library's asyncio calls, or asyncio.to_thread() where it has none",
    )
    CANCELLED = (
        "a call that is cancelled ends at once, with the cancellation",
        "raise CancelledError again after cleaning up, and wait for nothing in between",
    )
    HALF_MADE = (
        "a connect that fails or is cancelled leaves nothing behind",
        "put all that follows the opening of the socket into try/except BaseException: terminate(), raise",
    )
    CLOSE = (
        "close() ends the session and returns, also when it is repeated",
        "close the transport and wait for it; return at once when there is nothing left to close",
    )
    TERMINATE_AT_ONCE = (
        "terminate() never waits",
        "abort the transport or close the socket; goodbyes and waiting belong to close()",
    )
    TERMINATE_QUIETLY = (
        "terminate() never raises, in whatever state the connection is",
        "suppress what the library raises; millpond.drivers.cut() does, on a closed event loop too",
    )
    TERMINATE_ENDS = (
        "terminate() ends the session, and whoever waits for an answer on it is told",
        "abort the transport under the library rather than asking the library to close",
    )
    PING = (
        "ping() makes a round trip: it returns when the backend answered, and raises when it cannot",
        "send something, and wait for its answer; let the errors through",
    )
    RESET = (
        "reset() works on any open connection, again and again, and raises when it cannot clean",
        "let the errors through: a reset that did nothing must not pass for one that did",
    )
    CLEAN = (
        "after a full reset the session is as it was after connecting",
        "reset what is left over as well, or let after_lease() say DISCARD for what cannot be reset",
    )
    TRANSACTION = (
        "an open transaction never reaches the next borrower",
        "roll back in reset(), at level `none` let after_lease() say DISCARD",
    )
    ANSWERS = (
        "every answer belongs to its question: what a cancelled borrower did not read is nobody's answer",
        "let after_lease() say DISCARD while an answer is owed, or let reset() read it",
    )
    VERDICT = (
        "after_lease() says what becomes of the connection, and says what its author wrote down",
        "return a Verdict for every error, or correct the expectations of the Backend",
    )
    OWN_ERROR = (
        "an error of the borrower's own says nothing about the connection",
        "judge by what the connection knows of itself and by the backend's errors; keep it after others",
    )
    LOST = (
        "a lost connection is discarded, whatever the lease ended with",
        "ask is_closed() first in after_lease(), and take the library's connection errors for a loss",
    )
    KNOWN_CLOSED = (
        "is_closed() tells without I/O: False while it is open, True as soon as this side can know better",
        "ask the transport or the reader (is_closing(), at_eof()); or say in Backend.knows what it can tell",
    )
    PERMANENT = (
        "is_permanent() is true for what trying again cannot mend, and for nothing else",
        "name the errors for wrong credentials and unknown databases; refused connections and timeouts pass",
    )
    SECRET = (
        "no error and no repr holds a secret",
        "mask it in the text of what connect() raises, leave it out of repr(), and write redact()",
    )
    RESIDUE = (
        "nothing is left behind: no session at the backend, no socket, no thread, no task",
        "end in terminate() and close() all that connect() began, and keep no tasks of your own",
    )
    QUIET = (
        "nothing is reported to the event loop's exception handler",
        "retrieve the errors of the tasks and futures that you drop",
    )
    FORK = (
        "filenos() names what the child of a fork has to close, so that the parent's session lives on",
        "return the socket's fileno() while it is open, () afterwards; see millpond.drivers.outlive_fork()",
    )
    BOOKS = (
        "the backend sees exactly the sessions that the pool counts",
        "open one session in connect() and end it in close() and terminate(), and never reconnect in between",
    )
    SHARED = (
        "borrowers who share a connection do each other no harm",
        "judge only the connection in after_lease(), not what one of its borrowers did with it",
    )
    CONFIGURED = (
        "configured() returns the driver bound to the settings, and changes nothing on the original",
        "copy.copy(self), and set the level on the copy",
    )
    KIND = (
        "the class says what a configuration of its kind may hold",
        "keyword-only options with annotations; kind, schemes, extra, default_sizes, secret_options",
    )

    def __new__(cls, says: str, change: str) -> Self:
        """A member that carries its two sentences."""
        member = object.__new__(cls)
        member._value_ = says
        member.says, member.change = says, change
        return member

    def broken(self, seen: str) -> ContractBroken:
        """The error that says so."""
        return ContractBroken(self, seen)


class ContractBroken(AssertionError):
    """A driver does not keep a promise.

    Attributes:
        promise: which one.
        seen: what the driver did instead.
    """

    def __init__(self, promise: Promise, seen: str) -> None:
        self.promise, self.seen = promise, seen
        super().__init__(
            f"broken promise: {promise.says}\n  seen: {seen}\n  change: {promise.change} [{promise.name}]"
        )
