"""Is the backend there? Recent proof of life, else one ping, else one connect; never behind borrowers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from millpond._core.slot import SlotState
from millpond.errors import PoolClosed
from millpond.settings import seconds
from millpond.status import PoolCheck

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool

_RECENT_S: Final = 1.0  # how old (seconds) a proof of life may be to be believed


async def check(pool: ConnectionPool[Any], timeout: float) -> PoolCheck:
    """What can be found out about the backend within `timeout` seconds."""
    limit = seconds(timeout)
    try:
        pool._enter()
        pool._refuse_if_closed()
        return await _check(pool, limit)
    except PoolClosed:
        why = f"the pool is {pool.state.value}"
        return PoolCheck(healthy=False, latency=0.0, source="state", error=why)


async def _check(pool: ConnectionPool[Any], timeout: float | None) -> PoolCheck:
    began = pool._now()
    latest = began - _RECENT_S
    deadline = None if timeout is None else began + timeout
    if _has_proof(pool, latest):
        return PoolCheck(healthy=True, latency=0.0, source="recent", error=None)
    # A ping that fails says that one connection is gone; whether the backend is, a connect tells.
    for _ in range(2):
        pool._refuse_if_closed()  # also while the ping was under way
        source, decided = _ask_backend(pool)
        pool._announcer.settle()
        in_time = await pool._announcer.until(decided, deadline)
        latency = pool._now() - began
        if _has_proof(pool, latest):
            return PoolCheck(healthy=True, latency=latency, source=source, error=None)
        if source != "ping" or not in_time:
            break
    if source == "busy" and pool._ledger.live and not pool._opener.breaker.is_open:
        return PoolCheck(healthy=True, latency=latency, source=source, error=None)
    error = (pool._opener.last_error if in_time else None) or f"no answer within {timeout:g} s"
    return PoolCheck(healthy=False, latency=latency, source=source, error=error)


def _has_proof(pool: ConnectionPool[Any], since: float) -> bool:
    """A connection that is still there was opened, pinged or cleanly used after `since`."""
    return any(
        slot.proved_at > since and slot.state is not SlotState.CLOSING and not pool._keeper.gone(slot.conn)
        for slot in pool._slots()
        if slot.conn is not None
    )


def _ask_backend(pool: ConnectionPool[Any]) -> tuple[str, Callable[[], bool]]:
    """Start what can tell whether the backend is there; what it is, and whether it has told."""
    ledger, opener, tender = pool._ledger, pool._opener, pool._tender
    began = pool._now()
    pings, failures = tender.ping_failures, opener.failures
    source = "busy"
    if pool._idle:
        source = "ping"
        tender.ping(pool._idle[-1])
    elif ledger.opening:
        source = "connect"
    elif opener.breaker.is_open:
        source = "breaker"
    elif opener.permitted(began) and (slot := ledger.begin_opening(began, urgent=False)) is not None:
        source = "connect"
        opener.start(slot)
    else:
        opener.pump(began)  # a shared allowance must not remember that somebody wanted only to look

    def decided() -> bool:
        failed = tender.ping_failures > pings or opener.failures > failures
        if source == "busy" and ledger.busy and ledger.busy == ledger.live:
            return True  # nobody has been asked: to wait for a return would be to queue behind borrowers
        return source == "breaker" or failed or _has_proof(pool, began) or not (ledger.live or ledger.opening)

    return source, decided
