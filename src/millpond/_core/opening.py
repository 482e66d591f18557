"""Connection attempts: when one may start, what a failure means, and who is told.

Attempts belong to the pool, not to a borrower. There is one failure count and
one backoff schedule; after a failure there is one attempt at a time, until one
succeeds. Attempts that were under way together fail as one: a backend that went
away has gone once, however many were knocking.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
import math
from typing import TYPE_CHECKING, Any, Final

from millpond._core.alarm import Alarm
from millpond._core.backoff import backoff
from millpond._core.breaker import Breaker
from millpond._core.calls import FAULTS, Call
from millpond._core.retirement import reason_to_retire, tune
from millpond._core.waiters import WaiterState
from millpond.driver import Remembering
from millpond.errors import CircuitOpen, ConnectFailed, PoolError, describe, safe_cause
from millpond.events import CloseReason, EventKind
from millpond.status import Histogram, PoolState

if TYPE_CHECKING:
    from millpond._core.pool import ConnectionPool
    from millpond._core.slot import Slot

logger = logging.getLogger("millpond")

HEDGE_S: Final = 0.05
"""How long (seconds) a borrower relies on a ping or reset under way before another connection is opened."""

_HOLD_OFF_S: Final = 1.0
"""How long (seconds) nothing is opened after the pool's own tasks were cancelled from outside."""


class Opener:
    """This opens connections for one pool, and remembers how that went."""

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        settings = pool.settings
        self._pool = pool
        self.breaker = Breaker(settings.failure_threshold, settings.success_threshold)
        self.next_attempt_at = -math.inf
        self.attempts = 0
        self.failures = 0  # ever
        self.setbacks = 0  # the same, those counted once that failed together; in a row: the breaker counts
        self.last_error: str | None = None
        self.last_failed = False
        self.last_permanent = False
        self.suspicious = False  # after a failover: fresh connections are pinged before they count
        self.connect_times = Histogram()
        self._cause: BaseException | None = None
        self._retry: Alarm | None = None
        self._not_before = -math.inf
        self._pause_s = 0.0  # drawn for the latest setback
        self._known_to = -1  # attempts up to this number were under way at the latest setback

    # -- may we? --------------------------------------------------------------------------------

    def bind(self, loop: asyncio.AbstractEventLoop) -> None:
        """Learn the loop that timers run on."""
        self._retry = Alarm(loop, lambda _late: self._pool._wake())

    def forgive(self) -> None:
        """Begin anew after an initialize that failed: its failures are told, and done with."""
        self.unbind()
        self.breaker = Breaker(self._pool.settings.failure_threshold, self._pool.settings.success_threshold)
        self.next_attempt_at = -math.inf
        self.last_failed = False
        self._known_to = -1

    def tune(self, now: float) -> None:
        """Take what the settings say now; a pause that has become too long ends sooner."""
        settings = self._pool.settings
        was = self.breaker.state
        self.breaker.tune(settings.failure_threshold, settings.success_threshold)
        if self.is_failing:
            self._pause_s = min(self._pause_s, self._pause(1.0))
            self.next_attempt_at = min(self.next_attempt_at, now + self._pause_s)
        self._announce(was)

    @property
    def leaving(self) -> int:
        """Attempts that were told to stop: they have a place, and are about to give it back."""
        return sum(call.aborted for call in self._pool._openings.values())

    def unbind(self) -> None:
        """Drop the timer."""
        if self._retry is not None:
            self._retry.cancel()
            self._retry = None

    @property
    def is_failing(self) -> bool:
        """True from a failed attempt until one succeeds."""
        return self.breaker.failures > 0

    def retry_after(self, now: float) -> float:
        """Seconds until the next attempt is due, at least a tenth."""
        return max(0.1, self.next_attempt_at - now)

    def hold_off(self, now: float) -> None:
        """Somebody cancels the pool's own tasks, as the end of a loop does: start nothing for a while."""
        self._not_before = now + _HOLD_OFF_S
        if self._retry is not None:
            self._retry.set(self._not_before)

    def permitted(self, now: float) -> int:
        """How many attempts may start at this moment."""
        if now < self._not_before:
            return 0
        ledger = self._pool._ledger
        if self.is_failing or self.breaker.is_open or self.breaker.is_half_open:
            return 1 if not ledger.opening and now >= self.next_attempt_at else 0
        return max(0, self._pool.settings.max_connecting - ledger.opening)

    def _wanted_by_waiters(self, now: float) -> int:
        pool = self._pool
        ledger = pool._ledger
        waiting = ledger.waiters.live if pool.state is PoolState.OPEN else 0
        waiting -= pool._tender.prospects(now)
        return max(0, math.ceil(max(0, waiting) / ledger.leases_per_connection) - ledger.opening)

    def _wanted_anyway(self) -> int:
        """For `min_size`, and the probe of an open breaker."""
        ledger = self._pool._ledger
        for_floor = self._pool.settings.min_size - ledger.live - ledger.opening
        for_breaker = 1 if self.breaker.is_open and not ledger.opening else 0
        return max(0, for_floor, for_breaker)

    def pump(self, now: float) -> None:
        """Start as many attempts as are wanted and permitted."""
        pool = self._pool
        ledger = pool._ledger
        urgent = self._wanted_by_waiters(now) if ledger.waiters.live else 0
        wanted = max(urgent, self._wanted_anyway())
        if wanted:
            started = 0
            for _ in range(min(wanted, self.permitted(now))):
                slot = self._take_place(now, urgent=started < urgent)
                if slot is None:
                    self._go_without_probe()
                    break
                self.start(slot)
                started += 1
            left_over = wanted > started and not ledger.opening
            due = max(self.next_attempt_at, self._not_before)
            if left_over and self._retry is not None and due > now:
                self._retry.set(due)
        if ledger.allowance is not None and not (wanted and self.permitted(now) and ledger.has_room):
            ledger.allowance.no_longer_wants(pool)

    def _go_without_probe(self) -> None:
        """No place is free for the probe of an open breaker: the next who needs a connection is the probe."""
        was = self.breaker.state
        self.breaker.go_without_probe()
        self._announce(was)

    def _take_place(self, now: float, *, urgent: bool) -> Slot | None:
        ledger = self._pool._ledger
        slot = ledger.begin_opening(now, urgent=urgent)
        while slot is None and self._pool._keeper.make_room():
            slot = ledger.begin_opening(now, urgent=urgent)
        return slot

    # -- attempts -------------------------------------------------------------------------------

    def start(self, slot: Slot) -> None:
        """Begin one attempt, on a place that the ledger gave."""
        pool = self._pool
        self.attempts += 1
        call: Call[Any] = pool._calls.start(
            self._connect(self.suspicious),
            verb="connect",
            slot=slot,
            timeout=pool.settings.connect_timeout,
            on_end=lambda call, conn, error: self._ended(slot, call, conn, error),
        )
        slot.conn = None
        pool._openings[slot.number] = call

    async def _connect(self, checked: bool) -> Any:
        pool = self._pool
        driver = pool.driver
        conn = await driver.connect()
        try:
            if pool._on_connect is not None:
                outcome = pool._on_connect(conn)
                if inspect.isawaitable(outcome):
                    await outcome
                if isinstance(driver, Remembering):
                    driver.remember(conn)
            if checked:
                await driver.ping(conn)
        except BaseException:
            if id(conn) not in pool._ledger.by_id:
                pool._keeper.terminate(conn)
            raise
        return conn

    def _ended(self, slot: Slot, call: Call[Any], conn: Any, error: BaseException | None) -> None:
        pool = self._pool
        ledger = pool._ledger
        now = pool._now()
        pool._openings.pop(slot.number, None)
        if error is None:
            error = self._fault_of(conn)
            if error is not None and id(conn) not in ledger.by_id:
                pool._keeper.terminate(conn)
        if error is not None:
            ledger.dismiss(slot, CloseReason.BROKEN)
            if call.was_cancelled_from_outside:
                self.hold_off(now)
            elif not call.aborted:
                self.note_failure(slot, error, now)
            pool._pump()
            return
        ledger.admit(slot, conn, now)
        slot.draw = pool._random.random()
        tune(slot, pool.settings)
        self.connect_times.record(now - call.started_at)
        pool._announcer.tell(EventKind.OPENED, slot=slot, seconds=now - call.started_at)
        self._note_success()
        if pool.state is PoolState.NEW or pool._life.is_hurried:
            # On its way when an initialize failed or was cancelled, which leaves nothing behind; or so late
            # that the end of the pool, whose closings have been told to hurry, would have to wait for it.
            pool._keeper.cut(slot, CloseReason.POOL_CLOSED)
        elif pool.state in (PoolState.CLOSING, PoolState.CLOSED):
            pool._keeper.retire(slot, CloseReason.POOL_CLOSED)
        elif reason := reason_to_retire(slot, now, ledger.generation, pool.settings):
            pool._keeper.retire(slot, reason)
        else:
            pool._keeper.offer(slot)
        pool._pump()

    def _fault_of(self, conn: Any) -> BaseException | None:
        pool = self._pool
        if conn is None:
            return TypeError(f"{pool.driver.name}: connect() returned None")
        if id(conn) in pool._ledger.by_id:
            return TypeError(f"{pool.driver.name}: connect() returned an object that the pool has already")
        if pool._keeper.gone(conn):
            return ConnectionResetError("the connection was closed as soon as it was open")
        return None

    def _note_success(self) -> None:
        was = self.breaker.state
        self.breaker.connect_succeeded()
        self.last_failed = False
        self.next_attempt_at = -math.inf
        self._known_to = -1
        self._announce(was)

    def proof_of_life(self) -> None:
        """A ping or a clean lease succeeded."""
        was = self.breaker.state
        if not self._pool._ledger.has_room:
            self.breaker.go_without_probe()
        self.breaker.proof_of_life()
        self._announce(was)

    def note_failure(self, slot: Slot, error: BaseException, now: float) -> None:
        """Count a failed attempt, plan the next one, and tell the waiters who wait in vain.

        The pause is drawn once for those that failed together, and begins with the last of them.
        """
        pool = self._pool
        settings = pool.settings
        if self.breaker.failures == 0:
            logger.warning("%s: connect failed: %s", pool.name, describe(error, pool._redact))
        permanent = self.last_permanent = self._is_permanent(error)
        was = self.breaker.state
        self.failures += 1
        is_known = slot.number <= self._known_to
        self.breaker.connect_failed(permanent=permanent, is_known=is_known)
        self.last_failed = True
        self.last_error = describe(error, pool._redact)
        self._cause = safe_cause(error, pool._redact)
        if not is_known:
            self.setbacks += 1
            self._known_to = max(pool._openings, default=-1)
            self._pause_s = self._pause(pool._random.random())
        self.next_attempt_at = now + self._pause_s
        pool._announcer.tell(EventKind.OPEN_FAILED, detail=self.last_error)
        self._announce(was)
        if not pool._ledger.live:
            if permanent:
                self._fail(everybody=True, permanent=True, now=now)
            elif not self.breaker.is_open and self.breaker.failures > settings.connect_retries:
                self._fail(everybody=False, permanent=False, now=now)

    def _pause(self, draw: float) -> float:
        """Seconds to pause after the latest failure, by the settings; with `draw` 1 the most it may be."""
        settings = self._pool.settings
        return backoff(
            self.breaker.failures,
            first_s=min(settings.retry_delay, settings.recovery_timeout),
            most_s=settings.recovery_timeout,
            draw=draw,
        )

    def _is_permanent(self, error: BaseException) -> bool:
        try:
            return self._pool.driver.is_permanent(error)
        except FAULTS:
            logger.exception("%s: is_permanent() raised; the error counts as transient", self._pool.name)
            return False

    def _fail(self, *, everybody: bool, permanent: bool, now: float) -> None:
        pool = self._pool
        waiters = pool._ledger.waiters
        while (waiter := waiters.first()) is not None:
            error = self.connect_error(now, permanent=permanent)
            pool._ledger.failed += 1
            pool._ledger.settle(waiter, WaiterState.FAILED)
            waiter.future.set_result(error)
            if not everybody:
                break

    def connect_error(self, now: float, *, permanent: bool) -> ConnectFailed:
        """What a borrower is told after failed attempts."""
        error = ConnectFailed(
            self._pool.name,
            attempts=self.breaker.failures,
            last_error=self.last_error or "unknown",
            permanent=permanent,
            status=self._pool.status(),
            retry_after=None if permanent else self.retry_after(now),
        )
        error.__cause__ = self._cause
        return error

    def circuit_error(self, now: float) -> CircuitOpen:
        """What a borrower is told while the breaker is open and nothing is left to lend."""
        return CircuitOpen(
            self._pool.name,
            last_error=self.last_error,
            retry_after=self.retry_after(now),
            status=self._pool.status(),
        )

    def fail_waiters_if_cut_off(self, now: float) -> None:
        """With the breaker open and no live connection left, nobody is left to wait in vain."""
        pool = self._pool
        if not self.breaker.is_open or pool._ledger.live or pool.state is not PoolState.OPEN:
            return
        while (waiter := pool._ledger.waiters.first()) is not None:
            error: PoolError = self.circuit_error(now)
            pool._ledger.failed += 1
            pool._ledger.settle(waiter, WaiterState.FAILED)
            waiter.future.set_result(error)

    def _announce(self, was: object) -> None:
        state = self.breaker.state
        if state is not was:
            logger.info("%s: circuit breaker %s", self._pool.name, state.value)
            self._pool._announcer.tell(EventKind.BREAKER_CHANGED, reason=state.value)
