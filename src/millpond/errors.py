"""What can go wrong, as types that carry their facts.

    PoolError
    ├── PoolTimeout      (TimeoutError)     MP101  nothing came free by the deadline
    ├── PoolExhausted                       MP102  too many are waiting already
    ├── PoolClosed       (RuntimeError)     MP103  the pool gives no more leases
    ├── ConnectFailed    (ConnectionError)  MP104  the backend could not be reached
    ├── CircuitOpen                         MP105  the backend is known to be down
    ├── WrongLoop        (RuntimeError)     MP106  used from another loop, thread or process
    ├── ReleaseError                        MP107  a connection given back that is not on loan
    ├── InvalidSettings  (ValueError)       MP108  a setting out of its range
    ├── MissingExtra     (ImportError)      MP109  an optional package is not installed
    ├── ConfigError      (ValueError)       MP110  a configuration that cannot be used
    ├── UnknownConnection (LookupError)     MP111  no connection of that name (in millpond.registry)
    └── InvariantBroken                     MP900  millpond contradicted itself: our bug

Messages say what happened and what to change, and hold no secret.
"""

from __future__ import annotations

import enum
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final

if TYPE_CHECKING:
    from millpond.status import PoolStatus

# What a secret looks like in a driver's words: userinfo in a URL, and key=value or key: value pairs.
# Patterns as texts: compiling the two would take 1 ms of `import millpond`; re does it when first asked.
_USERINFO: Final = r"(?<=://)[^\s/@'\"]*(?:@[^\s/@'\"]*)*@"
_CREDENTIALS: Final = (
    r"(?i)\b([\w-]*(?:password|passwd|pwd|secret|token|api_?key|authorization)['\"]?\s*[=:]\s*)"
    r"(\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'|(?:bearer\s+|basic\s+)?[^\s,;&)}\]]+)"
)
_LONGEST_DESCRIPTION: Final = 300


def masked(text: str) -> str:
    """`text` with everything that looks like a credential replaced by `***`."""
    return re.sub(_CREDENTIALS, r"\1***", re.sub(_USERINFO, "***@", text))


def describe(error: BaseException, redact: Callable[[str], str] | None = None) -> str:
    """One line about `error` that is safe to show: its type and its masked text.

    Args:
        error: any exception, for example a driver's.
        redact: masks what only the driver knows to be secret; asked first.
    """
    try:
        text = " ".join(str(error).split())
        text = masked(redact(text) if redact is not None else text)
    except Exception:  # it cannot say what it is, or nobody can say whether that is secret
        text = ""
    if len(text) > _LONGEST_DESCRIPTION:
        text = text[: _LONGEST_DESCRIPTION - 1] + "…"
    return f"{type(error).__name__}: {text}" if text else type(error).__name__


def safe_cause(
    error: BaseException | None, redact: Callable[[str], str] | None = None
) -> BaseException | None:
    """`error` when it and all it hangs on say nothing secret, else None.

    An exception's causes and notes are printed with it; one that quotes a DSN
    must not be chained to an error that goes to a log.
    """
    seen: BaseException | None = error
    for _ in range(20):
        if seen is None:
            return error
        try:
            words = [str(seen), *map(str, seen.args), *getattr(seen, "__notes__", ())]
            if any(masked(redact(word) if redact else word) != word for word in words):
                return None
        except Exception:  # as above
            return None
        seen = seen.__cause__ or seen.__context__
    return None


@dataclass(frozen=True, slots=True)
class Holder:
    """Who holds a connection.

    Attributes:
        connection: the connection's number in its pool, from 1.
        lease: the lease's number in its pool, from 1.
        age: seconds since the lease was taken.
        task: name of the task that took it.
        stack: where it was taken, innermost call last; empty unless the pool
            runs with `leak_detection_threshold`.
    """

    connection: int
    lease: int
    age: float
    task: str
    stack: tuple[str, ...] = ()

    def __str__(self) -> str:
        return f"connection {self.connection} held {self.age:.1f} s by {self.task}"


class TimeoutCause(enum.Enum):
    """Why an acquire ran into its deadline."""

    EXHAUSTED = "exhausted"  # every connection was out
    CONNECTING = "connecting"  # a connection was being opened or checked, too slowly
    BACKEND_FAILING = "backend failing"  # attempts to connect fail
    PAUSED = "paused"  # pause() was called
    DRAINING = "draining"  # drain() was called
    SHARED_LIMIT = "shared limit"  # the allowance is used up by other pools


_ADVICE: Final = {
    TimeoutCause.EXHAUSTED: "Shorten what runs inside the lease, or raise max_size",
    TimeoutCause.CONNECTING: "Connecting took too long: look at the backend, or raise acquire_timeout",
    TimeoutCause.BACKEND_FAILING: "The backend cannot be reached: look at its last error",
    TimeoutCause.PAUSED: "The pool is paused: call resume()",
    TimeoutCause.DRAINING: "The pool is draining: call resume() to reopen it",
    TimeoutCause.SHARED_LIMIT: "Others use up the allowance that it shares (other pools, or its older "
    "version during a reload): raise the limit",
}


class PoolError(Exception):
    """Base of everything this package raises on purpose.

    Attributes:
        pool: name of the pool, or None where no pool is concerned.
        status: the pool's status when it happened, or None.
        retry_after: seconds after which trying again makes sense, or None.
    """

    code: ClassVar[str] = "MP100"

    def __init__(
        self,
        message: str,
        *,
        pool: str | None = None,
        status: PoolStatus | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.pool = pool
        self.status = status
        self.retry_after = retry_after
        where = f"pool {pool!r}: " if pool is not None else ""
        super().__init__(f"{where}{message} [{self.code}]")

    def __reduce__(self) -> tuple[Any, ...]:
        """Carry the facts across copies and processes; what a constructor takes differs from type to type."""
        return _restored, (type(self), self.args, self.__dict__.copy())

    @property
    def retry_after_seconds(self) -> int | None:
        """`retry_after` as HTTP wants it (RFC 9110, delta-seconds): whole, at least 1, or None."""
        return None if self.retry_after is None else max(1, math.ceil(self.retry_after))


def _restored(kind: type[PoolError], args: tuple[Any, ...], facts: dict[str, Any]) -> PoolError:
    error = kind.__new__(kind, *args)
    error.args = args
    error.__dict__.update(facts)
    return error


class InvariantBroken(PoolError):
    """millpond contradicted itself. Always our bug, never yours: please report it."""

    code = "MP900"


class PoolTimeout(PoolError, TimeoutError):
    """No connection came free before the deadline.

    Attributes:
        cause: what the acquire was waiting for.
        waited: seconds it waited.
        holders: the oldest holders, at most three.
        last_error: the last failed connect, sanitized, or None.
    """

    code = "MP101"

    def __init__(
        self,
        pool: str,
        *,
        waited: float,
        cause: TimeoutCause,
        status: PoolStatus | None = None,
        holders: Sequence[Holder] = (),
        last_error: str | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.cause = cause
        self.waited = waited
        self.holders = tuple(holders)
        self.last_error = last_error
        facts = [cause.value]
        if status is not None:
            facts.append(
                f"busy {status.busy}/{status.max_size}, opening {status.opening}, "
                f"tending {status.tending}, waiting {status.waiting}"
            )
        message = f"no connection after {waited:.3f} s ({'; '.join(facts)}). {_ADVICE[cause]}."
        if holders:
            message += " Oldest holders: " + "; ".join(map(str, holders)) + "."
        if last_error is not None:
            message += f" Last connect error: {last_error}."
        super().__init__(message, pool=pool, status=status, retry_after=retry_after)


class PoolExhausted(PoolError):
    """The queue is full: `max_waiting` borrowers wait already."""

    code = "MP102"

    def __init__(self, pool: str, *, max_waiting: int, status: PoolStatus | None, retry_after: float) -> None:
        self.max_waiting = max_waiting
        super().__init__(
            f"{max_waiting} borrowers wait already, which is max_waiting. "
            "Send less at once, raise max_size, or raise max_waiting.",
            pool=pool,
            status=status,
            retry_after=retry_after,
        )


class PoolClosed(PoolError, RuntimeError):
    """The pool gives no more leases: it is closed, closing, draining, or refuses while paused."""

    code = "MP103"

    def __init__(
        self,
        pool: str | None,
        *,
        why: str,
        status: PoolStatus | None = None,
        retry_after: float | None = None,
    ) -> None:
        super().__init__(why, pool=pool, status=status, retry_after=retry_after)


class ConnectFailed(PoolError, ConnectionError):
    """No connection could be opened.

    Attributes:
        attempts: failed attempts in a row; those that were under way together count once.
        permanent: trying again will not help (a wrong password).
        last_error: what the driver said, sanitized.
    """

    code = "MP104"

    def __init__(
        self,
        pool: str,
        *,
        attempts: int,
        last_error: str,
        permanent: bool = False,
        status: PoolStatus | None = None,
        retry_after: float | None = None,
    ) -> None:
        self.attempts = attempts
        self.permanent = permanent
        self.last_error = last_error
        tries = "1 attempt" if attempts == 1 else f"{attempts} attempts in a row"
        advice = (
            "Trying again will not help: correct the configuration." if permanent else "Is the backend up?"
        )
        super().__init__(
            f"no connection after {tries}: {last_error}. {advice}",
            pool=pool,
            status=status,
            retry_after=retry_after,
        )


class CircuitOpen(PoolError):
    """The backend is known to be down; the pool does not let you wait for it.

    Attributes:
        last_error: the failure that opened the breaker, or the last since, sanitized.
    """

    code = "MP105"

    def __init__(
        self, pool: str, *, last_error: str | None, retry_after: float, status: PoolStatus | None = None
    ) -> None:
        self.last_error = last_error
        super().__init__(
            f"circuit open, the next attempt is due in {retry_after:.1f} s"
            + (f" (last error: {last_error})" if last_error else "")
            + ". The pool tries by itself; ask again later.",
            pool=pool,
            status=status,
            retry_after=retry_after,
        )


class WrongLoop(PoolError, RuntimeError):
    """Used from another event loop or thread than the one it is bound to, or after that loop was closed."""

    code = "MP106"

    def __init__(self, pool: str, *, why: str) -> None:
        super().__init__(why, pool=pool)


class ReleaseError(PoolError):
    """A connection was given back, reported or detached that this pool has not lent to you."""

    code = "MP107"

    def __init__(self, pool: str, *, why: str) -> None:
        super().__init__(why, pool=pool)


class InvalidSettings(PoolError, ValueError):
    """A setting is out of its range, or unknown.

    Attributes:
        field: name of the setting.
    """

    code = "MP108"

    def __init__(self, field: str, value: object, fault: str) -> None:
        self.field = field
        super().__init__(f"{field}: {fault}, got {value!r}")


class MissingExtra(PoolError, ImportError):
    """An optional package is not installed.

    Attributes:
        extra: the extra that brings it.
    """

    code = "MP109"

    def __init__(self, extra: str, *, needed_for: str, module: str) -> None:
        self.extra = extra
        PoolError.__init__(
            self, f"{needed_for} needs the package {module!r}: pip install 'millpond[{extra}]'"
        )


class ConfigError(PoolError, ValueError):
    """A configuration cannot be used.

    Attributes:
        problems: one line for each fault, naming the file, the connection and the key.
    """

    code = "MP110"

    def __init__(self, problems: Sequence[str]) -> None:
        self.problems = tuple(problems)
        super().__init__("; ".join(self.problems))
