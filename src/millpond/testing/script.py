"""What a scripted call does: succeed, fail, dawdle, hang or lose its connection later; and with which errors.

BackendError
├── BackendDown      (ConnectionError)   nobody listens
├── TooManyClients   (ConnectionError)   the server is full
├── AccessDenied                         permanent: trying again cannot help
├── ConnectionLost   (ConnectionError)   the connection is gone
├── ReadOnly                             this node is no longer the primary
└── WrongAnswer                          an answer to somebody else's request
"""

from __future__ import annotations

import enum
import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, Final, TypeAlias

if TYPE_CHECKING:
    import random

    from millpond.testing.session import ScriptedConnection


class BackendError(Exception):
    """Base of what the scripted backend says by itself."""

    permanent: ClassVar[bool] = False


class BackendDown(BackendError, ConnectionError):
    """Nobody listens there."""


class TooManyClients(BackendError, ConnectionError):
    """The server has as many clients as it takes."""


class AccessDenied(BackendError):
    """The server does not let this client in; it never will."""

    permanent = True


class ConnectionLost(BackendError, ConnectionError):
    """The connection is gone."""


class ReadOnly(BackendError):
    """This node is no longer the primary."""


class WrongAnswer(BackendError):
    """The answer that came belongs to another request."""


class Verb(enum.StrEnum):
    """What a driver can be asked to do, and what a borrower does with a connection."""

    CONNECT = "connect"
    PING = "ping"
    RESET = "reset"
    CLOSE = "close"
    REQUEST = "request"


@dataclass(frozen=True, slots=True)
class Succeed:
    """This does what was asked, after one round trip."""


@dataclass(frozen=True, slots=True)
class Fail:
    """This raises `error`.

    Attributes:
        error: what to raise, or a function that makes it.
        permanent: the driver says of it that trying again cannot help.
        after: seconds until it raises; None: one round trip.
    """

    error: BaseException | Callable[[], BaseException] = BackendDown
    permanent: bool = False
    after: float | None = None

    def made(self) -> BaseException:
        """The error to raise, without the traceback of an earlier time."""
        error = self.error.with_traceback(None) if isinstance(self.error, BaseException) else self.error()
        if self.permanent:
            error.permanent = True  # type: ignore[attr-defined]
        return error


@dataclass(frozen=True, slots=True)
class Dawdle:
    """This takes `seconds`, then does `then`.

    Attributes:
        seconds: how long; 0: without suspending.
        then: what follows; it adds no round trip of its own.
        stubborn: neither a cancellation nor a lost connection cuts it short.
    """

    seconds: float
    then: Behaviour = field(default_factory=Succeed)
    stubborn: bool = False


@dataclass(frozen=True, slots=True)
class Hang:
    """This waits until it is cancelled, its connection goes, or `backend.unhang()` is called.

    Attributes:
        ignore: how many cancellations it swallows first; `math.inf`: all.
        finishes: the cancellation that it heeds makes it do `then` instead of ending it.
        deaf: not even a lost or terminated connection wakes it.
        then: what follows `backend.unhang()`.
    """

    ignore: float = 0
    finishes: bool = False
    deaf: bool = False
    then: Behaviour = field(default_factory=Succeed)


@dataclass(frozen=True, slots=True)
class Lose:
    """This does `then`; `after` seconds later the server drops the connection.

    Attributes:
        after: seconds from success to loss.
        silently: this side does not know until it uses the connection.
        then: what is done first.
    """

    after: float
    silently: bool = False
    then: Behaviour = field(default_factory=Succeed)


Behaviour: TypeAlias = Succeed | Fail | Dawdle | Hang | Lose

HANG_FOR_EVER: Final = Hang(ignore=math.inf, deaf=True)
"""Nothing ends it but `backend.unhang()`: what a driver does that refuses to give up."""


@dataclass(frozen=True, slots=True)
class Call:
    """One call about to be made, for a script that decides by itself.

    Attributes:
        verb: what was asked.
        number: of the calls of this verb, from 1.
        at: when, seconds on the loop's clock.
        connection: on which connection; None for a connect.
        random: the backend's generator.
    """

    verb: Verb
    number: int
    at: float
    connection: ScriptedConnection | None
    random: random.Random


Decision: TypeAlias = Behaviour | Callable[[Call], "Behaviour"]
"""What a call does, or a function that decides for each call."""


class Script:
    """What the calls of one verb do: first what is queued, one each, then the default."""

    __slots__ = ("default", "queue")

    def __init__(self) -> None:
        self.default: Decision = Succeed()
        self.queue: deque[Decision] = deque()

    def next(self, call: Call) -> Behaviour:
        """Decide about one call."""
        decision = self.queue.popleft() if self.queue else self.default
        return decision(call) if callable(decision) else decision


class Mixture:
    """A decision by lot: each call does one of `choices`, drawn with its weight by the backend's generator.

    Args:
        choices: pairs of a weight and a behaviour (or a function that decides).
    """

    def __init__(self, *choices: tuple[float, Decision]) -> None:
        self._weights = [weight for weight, _ in choices]
        self._decisions = [decision for _, decision in choices]

    def __call__(self, call: Call) -> Behaviour:
        """Draw one."""
        (decision,) = call.random.choices(self._decisions, self._weights)
        return decision(call) if callable(decision) else decision
