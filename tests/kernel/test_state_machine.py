"""A pool beside a model of a page: whatever is done to both, both say who holds a connection and who waits.

Hypothesis chooses what is done, and shortens what it finds. The model knows
nothing of connections: a holder for each place, the others in their order.
"""

import asyncio
from collections.abc import Callable, Coroutine
from itertools import count
from typing import Any

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    consumes,
    invariant,
    multiple,
    precondition,
    rule,
)

from millpond import ConnectionPool, PoolError, PoolSettings, PoolTimeout
from millpond.testing import Auditor, ScriptedBackend, ScriptedDriver
from millpond.testing.loop import SimulatedLoop

_arrivals = count(1)
PATIENCE_S = 200.0
MOMENT_S = 0.5  # long enough for every connect, ping and reset of a backend that is well


class Borrower:
    """A task that wants a lease, and keeps it until it is told how to end it."""

    def __init__(self, pool: ConnectionPool[Any], backend: ScriptedBackend, timeout: float) -> None:
        self.pool, self.backend, self.timeout = pool, backend, timeout
        self.says = "waits"
        self.arrived = 0
        self.order: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        self.task = asyncio.create_task(self._live())

    async def _live(self) -> None:
        self.arrived = next(_arrivals)
        try:
            async with self.pool.acquire(timeout=self.timeout) as conn:
                self.says = "holds"
                with self.backend.using(conn):
                    if await self.order == "fail":
                        raise ValueError("the borrower's own mistake")
            self.says = "done"
        except PoolTimeout:
            self.says = "gave up"
        except PoolError:
            self.says = "refused"
        except ValueError:
            self.says = "done"


class Model:
    """Who holds, and who waits until when; nothing else."""

    def __init__(self, max_size: int) -> None:
        self.max_size = max_size
        self.lends = self.takes = True
        self.holders: set[Borrower] = set()
        self.waiting: list[tuple[float, Borrower]] = []
        self.expected: dict[Borrower, str] = {}

    def ask(self, borrower: Borrower, deadline: float) -> None:
        """A newcomer."""
        if self.takes:
            self.expected[borrower] = "waits"
            self.waiting.append((deadline, borrower))
        else:
            self.expected[borrower] = "refused"

    def leave(self, borrower: Borrower, says: str) -> None:
        """Gone, whatever it was doing."""
        self.holders.discard(borrower)
        self.waiting = [each for each in self.waiting if each[1] is not borrower]
        self.expected[borrower] = says

    def refuse(self) -> None:
        """Nobody may wait any more."""
        self.lends = self.takes = False
        for _, borrower in self.waiting:
            self.expected[borrower] = "refused"
        self.waiting.clear()

    def serve(self) -> None:
        """Those who can be served are, in their order."""
        while self.lends and self.waiting and len(self.holders) < self.max_size:
            _, borrower = self.waiting.pop(0)
            self.holders.add(borrower)
            self.expected[borrower] = "holds"

    def pass_time(self, now: float) -> None:
        """Deadlines come before anything that happens later."""
        for deadline, borrower in self.waiting:
            if deadline <= now:
                self.expected[borrower] = "gave up"
        self.waiting = [each for each in self.waiting if each[0] > now]


class PoolBesideModel(RuleBasedStateMachine):
    """Everything that may be done to a pool whose backend is well, or is well again before anybody asks."""

    borrowers: Bundle[Borrower] = Bundle("borrowers")

    def __init__(self) -> None:
        super().__init__()
        self.loop = SimulatedLoop(seed=1)
        self.backend = ScriptedBackend(seed=1, latency=0.001)
        self.model = Model(max_size=2)
        self.pool = self._on_loop(self._begin)

    async def _begin(self) -> ConnectionPool[Any]:
        chosen = PoolSettings(
            min_size=1, max_size=2, validate_after_idle=3.0, health_check_interval=5.0, retry_delay=0.1,
            recovery_timeout=5.0, idle_timeout=20.0, max_lifetime=60.0, max_uses=7,
        )  # fmt: skip
        pool = ConnectionPool(ScriptedDriver(self.backend), settings=chosen, name="beside a model")
        Auditor(pool).attach()
        await pool.initialize()
        return pool

    def _on_loop(self, story: Callable[[], Coroutine[Any, Any, Any]]) -> Any:
        return self.loop.run_until_complete(self.loop.create_task(story()))

    def _do(self, act: Callable[[], object], seconds: float = MOMENT_S) -> None:
        """Act, and let what follows from it happen."""

        async def story() -> None:
            act()
            await asyncio.sleep(seconds)

        self._on_loop(story)
        self.model.serve()

    @rule(target=borrowers, timeout=st.sampled_from([2.0, 10.0, PATIENCE_S]))
    def ask(self, timeout: float) -> Borrower:
        """Somebody wants a connection."""
        made: list[Borrower] = []
        self._do(lambda: made.append(Borrower(self.pool, self.backend, timeout)))
        self.model.ask(made[0], self.loop.time() - MOMENT_S + timeout)
        self.model.serve()
        return made[0]

    @rule(target=borrowers, number=st.integers(2, 4))
    def ask_together(self, number: int) -> Any:
        """Several in the same turn of the loop."""
        made: list[Borrower] = []
        self._do(lambda: made.extend(Borrower(self.pool, self.backend, PATIENCE_S) for _ in range(number)))
        # The loop chooses in which order tasks that are made together come to the pool.
        for borrower in sorted(made, key=lambda each: each.arrived):
            self.model.ask(borrower, self.loop.time() - MOMENT_S + PATIENCE_S)
        self.model.serve()
        return multiple(*made)

    @rule(borrower=consumes(borrowers), how=st.sampled_from(["end", "fail"]))
    def end_lease(self, borrower: Borrower, how: str) -> None:
        """It gives back what it holds; one that still waits is cancelled instead."""
        if borrower in self.model.holders:
            self.model.leave(borrower, "done")
            self._do(lambda: borrower.order.set_result(how))
        else:
            self.cancel(borrower)

    @rule(borrower=consumes(borrowers))
    def cancel(self, borrower: Borrower) -> None:
        """Its task is cancelled, in the queue or with the connection in hand."""
        if borrower in self.model.holders or any(each is borrower for _, each in self.model.waiting):
            self.model.leave(borrower, self.model.expected[borrower])
        self._do(borrower.task.cancel)

    @rule(seconds=st.sampled_from([0.1, 3.0, 12.0, 70.0]))
    def wait(self, seconds: float) -> None:
        """Time passes: deadlines, pings, lifetimes."""
        self._do(lambda: None, seconds)
        self.model.pass_time(self.loop.time())

    @rule(max_size=st.integers(1, 4))
    def resize(self, max_size: int) -> None:
        """An operator changes the size; what is out stays out."""
        self.model.max_size = max_size
        self._do(lambda: self.pool.resize(min_size=1, max_size=max_size))

    @rule(spread=st.sampled_from([0.0, 4.0]))
    def clear(self, spread: float) -> None:
        """A new generation, which no borrower notices."""
        self._do(lambda: self.pool.clear(spread))

    @rule()
    def lose_every_connection(self) -> None:
        """The server hangs up on everybody; who asks next gets a new one."""

        def kill() -> None:
            for conn in list(self.backend.live):
                conn.kill()

        self._do(kill)

    @rule()
    def pause(self) -> None:
        """Nothing is lent; who asks waits."""
        self.model.lends, self.model.takes = False, True
        self._do(self.pool.pause)

    @rule()
    def refuse(self) -> None:
        """Nothing is lent, and nobody waits."""
        self.model.refuse()
        self._do(lambda: self.pool.pause("refuse"))

    @rule()
    def resume(self) -> None:
        """All is well again."""
        self.model.lends = self.model.takes = True
        self._do(self.pool.resume)

    @precondition(lambda self: not self.model.waiting)
    @rule(seconds=st.sampled_from([0.2, 8.0]))
    def flap(self, seconds: float) -> None:
        """The backend goes and comes back while nobody waits; then the pool is well within its own time."""
        self._do(self.backend.down, seconds)
        self._do(self.backend.up, 20.0)

    @invariant()
    def they_agree(self) -> None:
        """The pool did what the model says."""
        if not hasattr(self, "pool"):
            return
        self.model.pass_time(self.loop.time())
        said = {borrower: borrower.says for borrower in self.model.expected}
        assert list(said.values()) == list(self.model.expected.values())
        status = self.pool.status()
        assert (status.busy, status.waiting) == (len(self.model.holders), len(self.model.waiting))

    def teardown(self) -> None:
        """Close: waiters are refused, holders are waited for in vain, nothing is left."""

        async def end() -> None:
            await self.pool.close(timeout=1.0)
            tasks = [borrower.task for borrower in self.model.expected]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await asyncio.sleep(MOMENT_S)

        try:
            self._on_loop(end)
            assert self.pool.status().total == 0
            self.backend.check(all_closed=True)
            assert not self.loop.pending_tasks()
            assert not self.loop.pending_timers()
        finally:
            self.loop.after_step = self.loop.at_rest = None
            self.loop.close()


PoolBesideModel.TestCase.settings = settings(
    max_examples=250,
    stateful_step_count=40,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large],
)
TestPoolBesideModel = PoolBesideModel.TestCase
