"""One history: a world drawn from a seed, borrowers and trouble, and the calm after it.

The same seed gives the same history, step by step, in every process.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from millpond._core.allowance import Allowance
from millpond._core.pool import ConnectionPool
from millpond.driver import Verdict
from millpond.errors import PoolError
from millpond.events import Event
from millpond.status import BreakerState, PoolState
from millpond.testing.audit import Auditor
from millpond.testing.driver import ScriptedBackend, ScriptedConnection, ScriptedDriver
from millpond.testing.histories import draws
from millpond.testing.histories.borrower import Borrower
from millpond.testing.histories.tally import HistoryFailure, Tally
from millpond.testing.histories.troubles import Troubles, is_running
from millpond.testing.loop import current, run
from millpond.testing.watch import SLACK_S

if TYPE_CHECKING:
    from collections.abc import Callable

    from millpond.settings import PoolSettings

Pool = ConnectionPool[Any]

OPERATIONS: Final = 200
"""How many operations a history has at least: acquires, releases, cancellations, troubles."""
PLAIN: Final = 0.3
"""What part of all histories is plain."""
PATIENCE_S: Final = 60.0
"""How long (virtual seconds) after the trouble everybody must have been served."""


@dataclass(frozen=True, slots=True)
class Report:
    """What a history was made of.

    Attributes:
        seed: it replays it.
        operations: acquires, releases, cancellations and troubles.
        steps: steps of the loop.
        seconds: virtual ones.
    """

    seed: int
    operations: int
    steps: int
    seconds: float


class History:
    """This plays one history.

    Args:
        seed: decides everything.
        operations: how many at least, before the calm.

    Attributes:
        rng: draws what happens.
        operations: how many there have been.
        is_rough: borrowers make mistakes.
        is_plain: whose pools need to tell or ask nobody, as most pools in the world: nearly all their leases
            take a short way.
        is_over: borrowers come no more.
        pools, backends: the world; the pools of the past as well.
        detached: connections that borrowers took out of their pools.
    """

    def __init__(self, seed: int, operations: int = OPERATIONS) -> None:
        self.seed = seed
        self.least = operations
        self.rng = rng = random.Random(f"history {seed}")
        self.operations = 0
        self.is_over = False
        self.is_rough = rng.random() < 0.9
        self.tally = Tally()
        self.auditor = Auditor(strict=True)
        self.tasks: list[asyncio.Task[None]] = []
        self.aside: list[asyncio.Task[None]] = []  # nobody cancels these
        self.detached: list[ScriptedConnection] = []
        self.complaints: list[str] = []
        self.pools: list[Pool] = []
        self.active: list[Pool] = []
        self.is_plain = random.Random(f"is history {seed} plain?").random() < PLAIN
        self.leases = rng.choice((1, 1, 3) if self.is_plain else (1, 1, 1, 3))
        count = rng.choice((1, 1, 1, 2, 3))
        self.limit = rng.randrange(1, 6)
        has_company = not self.is_plain and (count > 1 or rng.random() < 0.3)
        self.allowance = Allowance(self.limit) if has_company else None
        self.backends = [self._backend(number) for number in range(rng.choice((1, count)))]
        for number in range(count):
            self.new_pool(self.backends[number % len(self.backends)], self._settings())
        self.troubles = Troubles(self)

    # -- the world -------------------------------------------------------------------------------------

    def _backend(self, number: int) -> ScriptedBackend:
        rng = self.rng
        backend = ScriptedBackend(
            seed=self.seed + number, latency=rng.choice((0.0, 0.001, 0.01)), max_borrowers=self.leases,
            remember=40,
        )  # fmt: skip
        verdicts = (Verdict.KEEP, Verdict.KEEP, Verdict.RESET)
        backend.clean_verdict = rng.choice(verdicts)
        backend.unread_verdict = rng.choice((Verdict.DISCARD, Verdict.RESET))
        return backend

    def _settings(self) -> PoolSettings:
        settings = draws.settings(self.rng, leases=self.leases)
        return draws.plain(settings) if self.is_plain else settings

    def other_settings(self, old: PoolSettings) -> PoolSettings:
        """A few other values for a pool that runs."""
        settings = draws.other_settings(self.rng, old)
        return draws.plain(settings) if self.is_plain else settings

    def new_pool(self, backend: ScriptedBackend, settings: PoolSettings) -> Pool:
        """Another pool joins."""
        name = f"pool {len(self.pools) + 1}"
        pool: Pool = ConnectionPool(
            ScriptedDriver(backend), settings=settings, name=name, allowance=self.allowance,
            on_connect=draws.hook(self.rng, lambda: self.is_rough),
            random=random.Random(f"{self.seed} {name}"),
        )  # fmt: skip
        self.pools.append(pool)
        self.active.append(pool)
        self.auditor.add(pool)
        if not self.is_plain and (listener := self._listener(pool)) is not None:
            pool.add_listener(listener)
        return pool

    def _listener(self, pool: Pool) -> Callable[[Event], object] | None:
        last = 0

        def listens(event: Event) -> None:
            nonlocal last
            if event.sequence != last + 1:
                self.complaints.append(f"event {event.sequence} of {pool.name} came after {last}")
            last = event.sequence

        def looks(event: Event) -> None:
            listens(event)
            pool.status()

        def acts(event: Event) -> None:
            listens(event)
            if event.sequence % 8 == 0:
                pool.apply(pool.settings)

        def raises(event: Event) -> None:
            listens(event)
            raise ValueError("the listener is broken")

        return self.rng.choice((None, None, None, None, listens, looks, acts, raises))

    def count(self) -> None:
        """One more operation."""
        self.operations += 1

    def any_pool(self) -> Pool:
        """Where the next lease is taken."""
        return self.rng.choice(self.active)

    def running(self) -> list[Pool]:
        """The pools that have not begun to end."""
        return [pool for pool in self.pools if is_running(pool)]

    def owner(self, conn: ScriptedConnection, pool: Pool) -> Pool:
        """Whose connection it is: waiters of `pool` may have been served by another."""
        owners = (
            each for each in self.pools if (slot := each._ledger.by_id.get(id(conn))) and slot.conn is conn
        )
        return next(owners, pool)

    # -- tasks -----------------------------------------------------------------------------------------

    def borrower_comes(self) -> None:
        """One more borrower."""
        leases = self.rng.choice((1, 2, 5, 20))
        self.tasks.append(
            asyncio.create_task(Borrower(self).live(leases), name=f"borrower {len(self.tasks)}")
        )

    def chore(self, work: Coroutine[Any, Any, None]) -> None:
        """Something else that takes time; it may be cancelled too."""
        self.tasks.append(asyncio.create_task(work, name=f"chore {len(self.tasks)}"))

    def cancel(self, task: asyncio.Task[None]) -> None:
        """Cancel it; it must end at this very instant."""
        if not task.done():
            self.count()
            task.cancel()
            self.auditor.cancels(task)

    def hand_over(self) -> None:
        """The queue of a pool moves: to another, or to a new version that replaces it."""
        if self.allowance is None or not self.running():
            return
        old = self.rng.choice(self.running())
        others = [pool for pool in self.running() if pool is not old]
        if others and self.rng.random() < 0.3:
            old._hand_over_waiters(self.rng.choice(others))
        elif len(self.pools) < 5 and old in self.active:
            driver = old.driver
            assert isinstance(driver, ScriptedDriver)  # noqa: S101 - new_pool made it
            heir = self.new_pool(driver.backend, self._settings())
            if self.rng.random() < 0.5:
                self.active.remove(old)
                old._hand_over_waiters(heir)
            else:
                old._bequeath(heir)  # some go on asking the old one, and are served by the new
            self.chore(self._ended(old, 0.5))

    async def _ended(self, pool: Pool, timeout: float, *, at_once: bool = False) -> None:
        """Close it; on time, though not sooner than its driver lets go."""
        began = current().time()
        await pool.close(timeout)
        took = current().time() - began
        if took > timeout + 2.0 + SLACK_S and current().stalled_until < began:
            raise HistoryFailure(f"close({timeout:g}) of {pool!r} took {took:.6f} s")
        if at_once and took >= timeout:
            raise HistoryFailure(f"close({timeout:g}) of {pool!r} waited {took:.6f} s for its own lease")
        if pool.state is not PoolState.CLOSED:
            raise HistoryFailure(f"close() left {pool!r}")

    # -- the course of things --------------------------------------------------------------------------

    def heal(self, backend: ScriptedBackend) -> None:
        """A backend is well again."""
        backend.up()
        backend.promote()
        if backend.is_frozen:
            backend.thaw()
        backend.max_clients = None
        for script in backend.scripts.values():
            script.queue.clear()
        backend.unhang()

    async def play(self) -> None:
        """All of it; raises when anything is not as it must be."""
        self.auditor.attach()
        for _ in range(self.rng.randrange(1, 8)):
            self.borrower_comes()
        if self.rng.random() < 0.1:
            self.aside.append(asyncio.create_task(self._stillborn(), name="stillborn"))
        while self.operations < self.least:
            is_quiet = self.rng.random() < 0.03  # long enough to see who relies on others to come by
            await asyncio.sleep(0.3 if is_quiet else self.rng.choice(draws.PAUSES))
            self.troubles.make()
            self.tasks = [task for task in self.tasks if not self._is_settled(task)]
        if self.rng.random() < 0.7:
            await self._calm()
            await self._all_is_well()
            await self._close_at_leisure()
        else:
            await self._close_in_the_middle()
        await self._nothing_is_left()

    async def _stillborn(self) -> None:
        """A pool that never opens, for its backend is away; it is closed, and that is all of it."""
        backend = self._backend(9)
        backend.down()
        settings = draws.settings(self.rng, leases=self.leases).changed(
            eager_init=True, max_size=2, max_idle=None, min_size=1
        )
        pool: Pool = ConnectionPool(ScriptedDriver(backend), settings=settings, name="stillborn")
        self.auditor.add(pool)
        try:
            with contextlib.suppress(PoolError):
                await pool.initialize(timeout=1.0)
        finally:
            await self._ended(pool, 0.0)

    @staticmethod
    def _is_settled(task: asyncio.Task[None]) -> bool:
        """It is over, and was not a failure: that is raised."""
        if not task.done():
            return False
        if not task.cancelled():
            task.result()
        return True

    async def _calm(self) -> None:
        """Everything is well again; all who wait are served."""
        self.is_over = True
        self.is_rough = False
        if self.allowance is not None:
            self.allowance.resize(self.limit)
        for backend in self.backends:
            self.heal(backend)
        await current().settle()  # a drain may be about to begin
        for pool in self.running():
            pool.resume()
        await self._all_done()

    async def _all_done(self) -> None:
        if self.tasks:
            _, late = await asyncio.wait(self.tasks, timeout=PATIENCE_S)
            if late:
                names = sorted(task.get_name() for task in late)
                raise HistoryFailure(
                    f"{PATIENCE_S:g} s after the trouble these are not done: {', '.join(names)}"
                )
        self.tasks = [task for task in self.tasks if not self._is_settled(task)]

    async def _all_is_well(self) -> None:
        """Every pool lends, and has forgotten the trouble."""
        for pool in self.running():
            pool.resume()  # somebody may have drained it meanwhile
        await asyncio.sleep(2.0)
        for pool in self.running():
            pool.apply(pool.settings.changed(max_waiting=None))  # its turn may take a moment
            self.tally.requests += 1
            async with pool.acquire(timeout=5.0):
                self.tally.served += 1
        await asyncio.sleep(1.5)
        for pool in self.running():
            status = pool.status()
            # Without a connection a pool is as well as its last attempt; nobody may have needed another.
            has_no_place = self.allowance is not None and self.allowance.free <= 0
            unused = not status.total and (not pool.settings.min_size or has_no_place)
            is_well = status.healthy or (unused and status.breaker is BreakerState.CLOSED)
            if status.busy or status.waiting or not is_well:
                raise HistoryFailure(f"long after the trouble: {status}")

    async def _close_at_leisure(self) -> None:
        """Everything is well: nobody has to be waited for, whoever calls, also from inside a lease."""
        if self.rng.random() < 0.3:
            pool = self.rng.choice(self.running())
            async with pool.acquire(timeout=5.0) as conn:
                self.tally.requests += 1
                self.tally.served += 1
                with conn.backend.using(conn):
                    await self._ended(pool, 0.5, at_once=True)
        await self._close_all(1.0)

    async def _close_all(self, timeout: float) -> None:
        await asyncio.gather(*(self._ended(pool, timeout) for pool in self.pools))

    async def _close_in_the_middle(self) -> None:
        """The end comes while borrowers wait and hold, and the backend is as it is; perhaps in two goes."""
        timeout = self.rng.choice((0.0, 0.1, 1.0))
        if self.rng.random() < 0.4:
            first = asyncio.create_task(self._close_all(timeout), name="the first close")
            await asyncio.sleep(self.rng.choice((0, 0, 0.05, 0.5)))
            first.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await first
        await self._close_all(timeout)
        self.is_over = True
        for backend in self.backends:
            self.heal(backend)
        await self._all_done()

    async def _nothing_is_left(self) -> None:
        """Abandoned calls end when the driver lets go; then the books are final."""
        await asyncio.gather(*self.aside)
        for backend in self.backends:
            self.heal(backend)
        await asyncio.sleep(3.0)
        self.auditor.finish()
        for backend in self.backends:
            backend.check(all_closed=True)
        self.tally.compare(self.pools)
        if self.complaints:
            raise HistoryFailure("; ".join(self.complaints))
        if self.allowance is not None and self.allowance.used:
            raise HistoryFailure(f"{self.allowance!r} after the end")


def play(seed: int, operations: int = OPERATIONS) -> Report:
    """Play the history of `seed`, and say what it was made of.

    Raises:
        AuditFailure: a guarantee was broken.
        HistoryFailure: it did not come out as it must.
        SimulationError: it left something behind, or never ended.
    """
    history = History(seed, operations)
    steps, seconds = 0, 0.0

    async def main() -> None:
        nonlocal steps, seconds
        await history.play()
        steps, seconds = current().steps, current().time()

    try:
        run(main, seed=seed, max_steps=200_000, check_timers=True)
    except BaseException:
        for pool in history.pools:
            pool._ledger.slots.clear()  # nobody will close them; the failure is enough to hear of
        raise
    return Report(seed, history.operations, steps, seconds)
