"""What a pool says of itself: status, stats, holders, errors. Cheap, no I/O, from any thread."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, TypeAlias

from millpond._core.slot import SlotState
from millpond.errors import Holder, PoolTimeout, TimeoutCause
from millpond.settings import PoolSettings
from millpond.status import Histogram, HistogramSnapshot, PoolState, PoolStats, PoolStatus

if TYPE_CHECKING:
    from millpond._core.announcing import Announcer
    from millpond._core.calls import Calls
    from millpond._core.keeping import Keeper
    from millpond._core.ledger import Ledger
    from millpond._core.opening import Opener
    from millpond._core.tending import Tender
    from millpond._core.upkeep import Upkeep


Snapshot: TypeAlias = tuple[PoolStatus, tuple[Holder, ...]]


class Reporting:
    """The part of a pool that only reads."""

    name: str
    settings: PoolSettings
    state: PoolState
    _announcer: Announcer
    _keeper: Keeper
    _ledger: Ledger
    _opener: Opener
    _tender: Tender
    _upkeep: Upkeep
    _now: Callable[[], float]
    _loop: Any
    _hold_times: Histogram
    _wait_times: Histogram
    _calls: Calls

    def __repr__(self) -> str:
        ledger = self._ledger
        return (
            f"<Pool {self.name!r} {self.state.value} {ledger.idle_count} idle, "
            f"{ledger.busy}/{ledger.max_size} busy, {ledger.waiters.live} waiting, "
            f"generation {ledger.generation}>"
        )

    def status(self) -> PoolStatus:
        """What the pool is doing now."""
        ledger = self._ledger
        waiting_since = ledger.waiters.waiting_since()
        breaker = self._opener.breaker
        # Each count is read once: another thread may ask in the middle of a change, and the sum has to fit.
        opening, idle, tending, closing = ledger.opening, ledger.idle_count, ledger.tending, ledger.closing
        busy = max(0, ledger.total - opening - idle - tending - closing)
        return PoolStatus(
            name=self.name,
            state=self.state,
            total=opening + idle + busy + tending + closing,
            opening=opening,
            idle=idle,
            busy=busy,
            tending=tending,
            closing=closing,
            waiting=ledger.waiters.live,
            oldest_waiter=0.0 if waiting_since is None else max(0.0, self._now() - waiting_since),
            leases=ledger.leases,
            healthy_connections=ledger.live,
            healthy=not breaker.is_open
            and not (ledger.live == 0 and self._opener.last_failed)
            and self.state not in (PoolState.CLOSING, PoolState.CLOSED),
            min_size=self.settings.min_size,
            max_size=self.settings.max_size,
            utilization=busy / self.settings.max_size,
            breaker=breaker.state,
            generation=ledger.generation,
            abandoned=self._calls.abandoned,
            last_error=self._opener.last_error,
        )

    def stats(self) -> PoolStats:
        """What the pool has done since it was made."""
        ledger = self._ledger
        at_once = ledger.lent - ledger.handed
        waits = self._wait_times.snapshot()
        counts = (waits.counts[0] + at_once, *waits.counts[1:])
        return PoolStats(
            requests=at_once + ledger.queued,
            served=ledger.lent - ledger.unlent,
            timed_out=ledger.timed_out,
            cancelled=ledger.cancelled,
            refused=ledger.refused,
            failed=ledger.failed,
            waiting=ledger.waiters.live,
            waited=ledger.queued,
            attempts=self._opener.attempts,
            opened=ledger.opened,
            open_failures=self._opener.failures,
            closed=ledger.closed.total(),
            closed_by_reason={reason.value: count for reason, count in list(ledger.closed.items())},
            resets=self._tender.resets,
            reset_failures=self._tender.reset_failures,
            pings=self._tender.pings,
            ping_failures=self._tender.ping_failures,
            discarded=self._keeper.discarded,
            leaked=self._upkeep.leaked,
            peak_busy=ledger.peak_busy,
            listener_errors=self._announcer.listener_errors,
            wait_seconds=HistogramSnapshot(counts=counts, total=waits.total),
            hold_seconds=self._hold_times.snapshot(),
            connect_seconds=self._opener.connect_times.snapshot(),
        )

    def holders(self) -> tuple[Holder, ...]:
        """Who holds what, the oldest lease first."""
        now = self._now()
        holds = [
            Holder(
                connection=slot.number,
                lease=hold.number,
                age=max(0.0, now - hold.since),
                task="no task" if hold.task is None else f"task {hold.task.get_name()}",
                stack=self._upkeep.stack_of(hold),
            )
            for slot in list(self._ledger.slots.values())
            if slot.state is SlotState.BUSY
            for hold in tuple(slot.leases)
        ]
        return tuple(sorted(holds, key=lambda holder: -holder.age))

    def _why_waiting(self) -> TimeoutCause:
        ledger = self._ledger
        if self.state is PoolState.PAUSED:
            return TimeoutCause.PAUSED
        if self.state is PoolState.DRAINING:
            return TimeoutCause.DRAINING
        if self._opener.is_failing and not ledger.busy:
            return TimeoutCause.BACKEND_FAILING
        if ledger.busy >= self.settings.max_size:
            return TimeoutCause.EXHAUSTED
        if ledger.opening or ledger.tending:
            return TimeoutCause.CONNECTING
        if self._opener.is_failing:
            return TimeoutCause.BACKEND_FAILING
        if (
            ledger.allowance is not None
            and ledger.allowance.free <= 0
            and ledger.total < self.settings.max_size
        ):
            return TimeoutCause.SHARED_LIMIT
        return TimeoutCause.EXHAUSTED

    def _snapshot(self) -> Snapshot:
        """What a timeout tells; taken once for all that run out at the same instant."""
        return self.status(), self.holders()[:3]

    def _timeout_error(
        self, waited: float, cause: TimeoutCause, snapshot: Snapshot | None = None
    ) -> PoolTimeout:
        status, holders = snapshot or self._snapshot()
        return PoolTimeout(
            self.name,
            waited=waited,
            cause=cause,
            status=status,
            holders=holders,
            last_error=self._opener.last_error if self._opener.is_failing else None,
            retry_after=1.0,
        )
