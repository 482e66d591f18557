"""The auditor: after every step of a simulated loop it asks whether pools keep what they promise.

    >>> from millpond import ConnectionPool
    >>> from millpond.testing import Auditor, ScriptedDriver, run
    >>> async def main():
    ...     pool = ConnectionPool(ScriptedDriver(), name="orders")
    ...     auditor = Auditor(pool).attach()
    ...     async with pool.acquire() as conn:
    ...         await conn.request("how are you")
    ...     await pool.close()
    ...     auditor.finish()
    >>> run(main, seed=7)

What is asked stands in `guarantees`, an expression each. It is asked of the
pool's books and, when the pool's driver is a `ScriptedDriver`, of its backend.
"""

from __future__ import annotations

import asyncio
import math
from typing import TYPE_CHECKING, Any, Self

from millpond.status import PoolState
from millpond.testing import guarantees
from millpond.testing.guarantees import FAULTS, TITLES, Check
from millpond.testing.loop import current
from millpond.testing.watch import AllowanceWatch, BackendWatch, PoolWatch

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from millpond._core.pool import ConnectionPool
    from millpond._core.waiters import Waiter
    from millpond.testing.driver import ScriptedConnection
    from millpond.testing.simulated import SimulatedLoop


class AuditFailure(AssertionError):
    """A pool broke one of its guarantees.

    Attributes:
        guarantee: its number in the design.
        sentence: what should hold.
        told: what was found, in words.
        at: seconds on the loop's clock.
        step: the loop's step.
        seed: the loop's seed.
    """

    def __init__(
        self, guarantee: int, sentence: str, told: str, *, at: float, step: int, seed: int | None
    ) -> None:
        self.guarantee, self.sentence, self.told = guarantee, sentence, told
        self.at, self.step, self.seed = at, step, seed
        super().__init__(
            f"guarantee {guarantee} ({TITLES[guarantee]}) is broken at {at:.6f} s, step {step}, seed {seed}: "
            f"{sentence!r} does not hold.\n  {told}"
        )


class Auditor:
    """This checks the guarantees of some pools after every step of the simulated loop.

    The backends must belong to these pools alone. A program that calls
    `clear()` in the very step in which a connection is found demoted has to
    say so by `clears()`.

    Args:
        pools: whom to audit.
        strict: the program tells what it does: every borrower goes through
            `backend.using` for as long as it has its lease, every `clear()` is
            announced by `clears()`, every deliberate leak by `leaks()`, and who
            is cancelled, by `cancels()`, awaits nothing more but the pool.
            Then more can be asked.
        raises: raise the first failure; False: only record it in `failures`.

    Attributes:
        failures: what was found.
        leakers: tasks that may end without giving their lease back.
        steps: steps after which something had changed and was checked.
    """

    def __init__(self, *pools: ConnectionPool[Any], strict: bool = False, raises: bool = True) -> None:
        self.is_strict = strict
        self.raises = raises
        self.failures: list[AuditFailure] = []
        self.leakers: set[asyncio.Task[Any]] = set()
        self._cancelled: list[asyncio.Task[Any]] = []
        self.steps = 0
        self._loop: SimulatedLoop | None = None
        self._pools: list[PoolWatch] = []
        self._backends: dict[int, BackendWatch] = {}
        self._allowances: dict[int, AllowanceWatch] = {}
        for pool in pools:
            self.add(pool)

    def add(self, pool: ConnectionPool[Any]) -> None:
        """Audit `pool` as well, from now on."""
        watch = PoolWatch(pool)
        self._pools.append(watch)
        if watch.backend is not None:
            self._backends.setdefault(id(watch.backend), BackendWatch(watch.backend)).pools.append(watch)
        allowance = watch.ledger.allowance
        if allowance is not None:
            self._allowances.setdefault(id(allowance), AllowanceWatch(allowance)).pools.append(watch)

    def attach(self, loop: SimulatedLoop | None = None) -> Self:
        """Check after every step of `loop` (left out: the running one), and whenever it rests."""
        self._loop = current() if loop is None else loop
        self._loop.after_step = self.after_step
        self._loop.at_rest = self.at_rest
        return self

    @property
    def stalled_until(self) -> float:
        """When the loop last stood still, seconds on its clock; minus infinity: never."""
        return -math.inf if self._loop is None else self._loop.stalled_until

    # -- what a strict program tells -------------------------------------------------------------------

    def clears(self, pool: ConnectionPool[Any]) -> None:
        """The program is about to call `pool.clear()`."""
        self._watch_of(pool).clears += 1

    def leaks(self, task: asyncio.Task[Any]) -> None:
        """This task may end without giving its lease back."""
        self.leakers.add(task)

    def cancels(self, task: asyncio.Task[Any]) -> None:
        """The program has cancelled this task, which has to end at this instant."""
        self._cancelled.append(task)

    # -- checking ----------------------------------------------------------------------------------------

    def after_step(self) -> None:
        """Check what must hold after every step."""
        now = self._now()
        changed = False
        failovers: dict[int, Sequence[ScriptedConnection]] = {}
        for key, backend in self._backends.items():
            if backend.faults < len(backend.backend.faults):
                self._tell_faults(backend)
            if new := backend.new_failovers():
                failovers[key] = new
        for watch in self._pools:
            if watch.look(now, failovers.get(id(watch.backend), ()) if failovers else ()):
                self._checked(watch)
                changed = True
        for allowance in self._allowances.values():
            if changed or allowance.limit != allowance.allowance.limit:
                allowance.look()
                self._ask(guarantees.ALLOWANCE_AFTER_A_STEP, allowance, allowance.pools)
        for backend in self._backends.values():
            if changed or backend.has_changed():
                self._ask(guarantees.BACKEND_AFTER_A_STEP, backend, backend.pools)

    def _checked(self, watch: PoolWatch) -> None:
        self.steps += 1
        if watch.backend is not None and watch.gone:
            self._backends[id(watch.backend)].note_detached(watch)
        if watch.queue and watch.queue_before != watch.queue:
            watch.is_heir = watch.is_heir or any(self.moved(waiter, watch) for waiter in watch.queue)
        self._ask(guarantees.POOL_AFTER_A_STEP, watch, [watch])
        watch.clears = 0

    def at_rest(self) -> None:
        """Check what must hold when nothing more can happen at this instant."""
        now = self._now()
        for task in self._cancelled:
            if not task.done():
                self._fail(6, "A cancellation is not swallowed", task.get_name())
        self._cancelled.clear()
        for watch in self._pools:
            watch.now = now
            watch.rested()
        for watch in self._pools:
            if watch.facts.state is not PoolState.NEW:
                self._ask(guarantees.POOL_AT_REST, watch, self._pools)
        for backend in self._backends.values():
            self._ask(guarantees.BACKEND_AT_REST, backend, backend.pools)

    def finish(self) -> None:
        """Check that closed pools have left nothing behind: for the end of a program."""
        self.after_step()
        closed = [watch for watch in self._pools if watch.pool.state is PoolState.CLOSED]
        abandoned = sum(watch.pool.status().abandoned for watch in closed)
        names = tuple(f"millpond {watch.pool.name}: " for watch in closed)
        left = [
            task.get_name() for task in asyncio.all_tasks(self._loop) if task.get_name().startswith(names)
        ]
        if len(left) > abandoned:
            self._fail(10, "A closed pool leaves no task behind", ", ".join(sorted(left)))
        for backend in self._backends.values():
            if all(watch in closed for watch in backend.pools):
                self._ask_closed(backend, abandoned)

    def _ask_closed(self, backend: BackendWatch, abandoned: int) -> None:
        if backend.sessions > abandoned:
            self._fail(10, "A closed pool leaves no connection behind", repr(backend.backend))
        world, detached = backend.backend, backend.detached_ever
        closed = sum(watch.ledger.closed.total() for watch in backend.pools)
        if closed - detached > world.closed + world.terminated:
            self._fail(11, "The backend counts the connections closed that the books count", repr(world))

    # -- what checks ask -----------------------------------------------------------------------------------

    def sharing(self, watch: PoolWatch) -> Iterable[PoolWatch]:
        """The other pools on the same allowance."""
        allowance = watch.ledger.allowance
        if allowance is None:
            return ()
        return (each for each in self._pools if each is not watch and each.ledger.allowance is allowance)

    def moved(self, waiter: Waiter, watch: PoolWatch) -> bool:
        """True when `waiter` waited in another pool before."""
        return any(
            waiter is each
            for other in self._pools
            if other is not watch
            for each in (*other.queue_before, *other.queue)
        )

    def bequeathed_to(self, watch: PoolWatch) -> Iterable[PoolWatch]:
        """The pools that have ended in favour of this one."""
        return (each for each in self._pools if each is not watch and each.pool._last_heir() is watch.pool)

    def other_queues(self, watch: PoolWatch) -> Iterable[Sequence[Waiter]]:
        """Those who wait in the other pools, or did before the last step, in order."""
        others = [other for other in self._pools if other is not watch]
        return [queue for other in others for queue in (other.queue_before, other.queue)]

    def is_detached(self, conn: ScriptedConnection) -> bool:
        """True when a borrower took `conn` out of its pool."""
        return any(conn is each for backend in self._backends.values() for each in backend.detached)

    # -- failing -------------------------------------------------------------------------------------------

    def _ask(self, checks: Sequence[Check[Any]], subject: Any, pools: Sequence[PoolWatch]) -> None:
        for check in checks:
            if not check.holds(subject, self) and (self.is_strict or not check.strict):
                self._fail(check.guarantee, check.sentence, "; ".join(watch.told() for watch in pools))

    def _tell_faults(self, backend: BackendWatch) -> None:
        known, backend.faults = backend.faults, len(backend.backend.faults)
        for fault in backend.backend.faults[known:]:
            self._fail(FAULTS.get(fault.kind, 8), f"Never {fault.kind.value}", str(fault))

    def _fail(self, guarantee: int, sentence: str, told: str) -> None:
        loop = self._loop
        failure = AuditFailure(
            guarantee, sentence, told, at=self._now(),
            step=0 if loop is None else loop.steps, seed=None if loop is None else loop.seed,
        )  # fmt: skip
        self.failures.append(failure)
        if self.raises:
            raise failure

    def _now(self) -> float:
        return 0.0 if self._loop is None else self._loop.time()

    def _watch_of(self, pool: ConnectionPool[Any]) -> PoolWatch:
        return next(watch for watch in self._pools if watch.pool is pool)
