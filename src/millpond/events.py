"""What a pool tells its listeners: small immutable records, made only when somebody listens."""

from __future__ import annotations

import enum
from collections.abc import Callable
from typing import NamedTuple, TypeAlias


class EventKind(enum.Enum):
    """What happened."""

    OPENED = "opened"  # a connection joined the pool
    OPEN_FAILED = "open_failed"  # an attempt to connect failed
    LENT = "lent"  # a lease began
    RETURNED = "returned"  # a lease ended
    RESET = "reset"  # a session was cleaned
    DISCARDED = "discarded"  # a connection was judged unfit; it will be closed
    CLOSED = "closed"  # a connection left the pool
    WAITING = "waiting"  # a borrower joined the queue
    TIMED_OUT = "timed_out"  # a borrower's deadline passed
    LEAKED = "leaked"  # a lease is held too long, or its task has ended
    BREAKER_CHANGED = "breaker_changed"  # the circuit breaker changed its state
    CLEARED = "cleared"  # a new generation began
    CHANGED = "changed"  # the pool's state or settings changed


class CloseReason(enum.Enum):
    """Why a connection left the pool, or was judged unfit."""

    IDLE = "idle"  # idle for longer than idle_timeout, or above max_idle
    LIFETIME = "lifetime"  # older than its lifetime
    USES = "uses"  # lent max_uses times
    SHRUNK = "shrunk"  # max_size was lowered
    SHED = "shed"  # another pool on the same allowance needed the place
    CLEARED = "cleared"  # of an older generation
    FAILOVER = "failover"  # the driver said that this node is no longer the one
    DISCARDED = "discarded"  # the borrower said so
    REPORTED = "reported"  # pool.report() condemned it
    SPOILED = "spoiled"  # after the lease, the driver could not vouch for it
    BROKEN = "broken"  # the connection is gone
    PING_FAILED = "ping_failed"
    RESET_FAILED = "reset_failed"
    DETACHED = "detached"  # the borrower keeps it
    POOL_CLOSED = "pool_closed"  # the pool ended
    LOOP_CLOSED = "loop_closed"  # the event loop ended first


class Event(NamedTuple):
    """One thing that happened in one pool.

    Attributes:
        kind: what happened.
        sequence: counts up by one with every event of this pool, from 1.
        pool: the pool's name.
        generation: the pool's generation when it happened.
        connection: the connection's number in its pool, from 1; 0: none is concerned.
        lease: the lease's number in its pool, from 1; 0: none is concerned.
        reason: why, for `discarded` and `closed`; a word about it for `changed` and `breaker_changed`.
        seconds: how long it took or lasted: the wait of `lent` and `timed_out`, the hold of `returned`
            and `leaked`, the connect of `opened`, the age of `closed`; else 0.
        detail: more words: the sanitized error of a failure, the holder of a leak; else empty.
    """

    kind: EventKind
    sequence: int
    pool: str
    generation: int
    connection: int = 0
    lease: int = 0
    reason: CloseReason | str | None = None
    seconds: float = 0.0
    detail: str = ""

    def __str__(self) -> str:
        words = [f"{self.pool}:"]
        if self.connection:
            words.append(f"connection {self.connection}")
        words.append(self.kind.value)
        if self.seconds:
            words.append(f"after {self.seconds:.3f} s")
        reason = self.reason.value if isinstance(self.reason, CloseReason) else self.reason
        facts = [f"reason={reason}"] if reason else []
        facts += [f"lease={self.lease}"] if self.lease else []
        facts.append(f"generation={self.generation}")
        text = " ".join(words) + f" ({', '.join(facts)})"
        return f"{text}: {self.detail}" if self.detail else text


Listener: TypeAlias = Callable[[Event], object]
"""Called with every event, in order, in the pool's thread; what it returns is ignored."""
