"""The stage of a sweep: pools, a backend, the people around the operation under attack, their due."""

import asyncio
import contextlib
import itertools
import random
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from millpond import Allowance, ConnectionPool, PoolSettings
from millpond.errors import CircuitOpen, ConnectFailed, PoolClosed, PoolExhausted, PoolTimeout
from millpond.status import PoolState
from millpond.testing import Auditor, ScriptedBackend, ScriptedDriver
from millpond.testing.driver import ScriptedConnection, Succeed
from millpond.testing.loop import current

PATIENCE_S = 60.0
"""Nobody around an operation may need longer than this (virtual seconds) once the trouble is over."""


class Request:
    """One acquire and what became of it, as its borrower saw it."""

    def __init__(self, tally: Counter[str]) -> None:
        self._tally = tally
        self._is_over = False
        tally["requests"] += 1

    def end(self, outcome: str) -> None:
        """The first outcome counts: what happens inside a lease is no longer the request's."""
        if not self._is_over:
            self._is_over = True
            self._tally[outcome] += 1

    def fail(self, error: BaseException) -> None:
        """It ended in an error."""
        match error:
            case PoolTimeout():
                self.end("timed out")
            case PoolClosed() | PoolExhausted() | CircuitOpen() | ConnectFailed():
                self.end("refused or failed")
            case _:
                self.end("cancelled")


@dataclass(frozen=True)
class Scene:
    """What of a stage a situation decides before it is set up.

    Attributes:
        settings: of every pool on the stage.
        on_connect: the hook of every pool.
        limit: of the allowance that the pool shares with a second one; None: there is no second one.
        latency: of the backend.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    on_connect: Callable[[Any], Any] | None = None
    limit: int | None = None
    latency: float = 0.001


class Stage:
    """One backend, one or two pools, and everybody who uses them."""

    def __init__(self, scene: Scene, settings: dict[str, Any], seed: int | None) -> None:
        merged = {"min_size": 0, "max_size": 1, "retry_delay": 0.05, "recovery_timeout": 0.5}
        merged.update(scene.settings)
        merged.update(settings)
        self.settings = PoolSettings(**merged)
        self.scene = scene
        self.seed = seed or 0
        self.backend = ScriptedBackend(
            seed=self.seed, latency=scene.latency, max_borrowers=self.settings.max_leases_per_connection
        )
        self.driver = ScriptedDriver(self.backend)
        self.allowance = None if scene.limit is None else Allowance(scene.limit)
        self.auditor = Auditor()
        self.pool = self._new_pool("attacked", self.settings)
        self.other = None
        if scene.limit is not None:
            # Without a floor: two floors on a limit of one place would wait for each other by design.
            self.other = self._new_pool("other", self.settings.changed(min_size=0))
        self.tally: Counter[str] = Counter()
        self._numbers = itertools.count(1)
        self.people: list[asyncio.Task[Any]] = []
        self.behind: list[asyncio.Task[Any]] = []
        self.served_behind: list[tuple[str, int, int]] = []  # pool, lease number, place in the queue

    def _new_pool(self, name: str, settings: PoolSettings) -> ConnectionPool[ScriptedConnection]:
        pool: ConnectionPool[ScriptedConnection] = ConnectionPool(
            self.driver, settings=settings, name=name, allowance=self.allowance,
            on_connect=self.scene.on_connect, random=random.Random(self.seed),
        )  # fmt: skip
        self.auditor.add(pool)
        return pool

    @property
    def pools(self) -> list[ConnectionPool[ScriptedConnection]]:
        """Those that exist."""
        return [self.pool] if self.other is None else [self.pool, self.other]

    # -- people --------------------------------------------------------------------------------------

    @contextlib.contextmanager
    def request(self) -> Iterator[Request]:
        """Count an acquire; say `end("served")` inside as soon as it has returned."""
        request = Request(self.tally)
        try:
            yield request
        except BaseException as error:
            request.fail(error)
            raise

    def using(self, conn: ScriptedConnection) -> Any:
        """Tell the backend who uses the connection: by a number, for not everybody has a task."""
        return self.backend.using(conn, next(self._numbers))

    def owner_of(self, conn: ScriptedConnection) -> ConnectionPool[ScriptedConnection]:
        """The pool that served it: waiters can move to another."""
        return next(pool for pool in self.pools if id(conn) in pool._ledger.by_id)

    def spawn(self, coroutine: Any, *, name: str) -> asyncio.Task[Any]:
        """A task of somebody who is not under attack."""
        task = asyncio.create_task(coroutine, name=name)
        self.people.append(task)
        return task

    def later(self, delay: float, call: Callable[[], object]) -> None:
        """Something happens `delay` seconds from now."""

        async def happen() -> None:
            await asyncio.sleep(delay)
            call()

        self.spawn(happen(), name="fate")

    async def hold(
        self, seconds: float, *, pool: Any = None, then: Callable[[Any], object] | None = None
    ) -> ScriptedConnection:
        """Somebody borrows a connection, now, and gives it back after `seconds`.

        Args:
            seconds: how long.
            pool: where; None: the pool under attack.
            then: called with the connection just before it is given back; what it raises ends the lease.
        """
        has_it: asyncio.Future[ScriptedConnection] = asyncio.get_running_loop().create_future()

        async def holder() -> None:
            with contextlib.suppress(OSError), self.request() as request:
                async with (pool or self.pool).acquire(timeout=None) as conn:
                    request.end("served")
                    has_it.set_result(conn)
                    with self.using(conn):
                        await asyncio.sleep(seconds)
                        if then is not None:
                            then(conn)

        self.spawn(holder(), name=f"holder for {seconds:g} s")
        return await has_it

    async def queue_behind(self, count: int) -> None:
        """That many line up behind the operation; each notes when it was served."""
        for place in range(count):
            began: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self.behind.append(self.spawn(self._borrow_behind(place, began), name=f"behind {place}"))
            await began

    async def _borrow_behind(self, place: int, began: asyncio.Future[None]) -> None:
        began.set_result(None)
        with self.request() as request:
            lease = await self.pool.lease(timeout=None)
            request.end("served")
        self.served_behind.append((lease.pool.name, lease.number, place))
        with contextlib.suppress(OSError):
            async with lease as conn:
                with self.using(conn):
                    if self.settings.max_leases_per_connection == 1:
                        await conn.request(place)

    # -- the end -------------------------------------------------------------------------------------

    async def calm(self) -> None:
        """The trouble is over: the backend is well, and pools that can lend do."""
        backend = self.backend
        backend.up()
        backend.thaw()
        for script in backend.scripts.values():
            script.queue.clear()
            script.default = Succeed()
        backend.unhang()
        for pool in self.pools:
            if pool.state in (PoolState.PAUSED, PoolState.DRAINING):
                pool.resume()

    async def everybody_is_done(self, *, may_be_refused: bool) -> None:
        """Those around the operation end within their patience, and in no error that nobody expects."""
        while waiting := [task for task in self.people if not task.done()]:  # some bring others
            _, hanging = await asyncio.wait(waiting, timeout=PATIENCE_S)
            assert not hanging, f"still waiting: {[task.get_name() for task in hanging]}"
        errors = [error for task in self.people if (error := task.exception()) is not None]
        refusals = (PoolClosed, CircuitOpen, ConnectFailed, PoolTimeout) if may_be_refused else ()
        for error in errors:
            if not isinstance(error, refusals):
                raise error
        assert may_be_refused or len(self.served_behind) == len(self.behind)

    def those_behind_kept_their_order(self) -> None:
        """By lease number: who was handed a connection first may well run second."""
        order = [(pool, place) for pool, _, place in sorted(self.served_behind)]
        assert order == sorted(order), f"out of order: {order}"

    def nothing_is_left_of_a_new_pool(self) -> None:
        """One that was opened in vain is as new: it has no connection that nobody would ever close."""
        for pool in self.pools:
            if pool.state is PoolState.NEW:
                assert pool.status().total == 0, f"{pool.name} is new, and has {pool.status().total} open"

    async def burst(self) -> None:
        """No place was lost: as many as each pool may serve are served at once, together."""
        for pool in self.pools:
            if pool.state in (PoolState.CLOSING, PoolState.CLOSED):
                continue
            connections = pool.settings.max_size
            if self.allowance is not None:
                connections = min(connections, self.allowance.limit)
            each = pool.settings.max_leases_per_connection
            if pool.settings.max_uses is not None:
                each = min(each, pool.settings.max_uses)  # the next has to wait for another
            count = connections * each
            leases = await asyncio.gather(*(self._probe(pool) for _ in range(count)))
            for lease in leases:
                lease.release()

    async def _probe(self, pool: ConnectionPool[Any]) -> Any:
        with self.request() as request:
            lease = await pool.lease(timeout=1.0)
            request.end("served")
        return lease

    async def end(self) -> None:
        """Close everything; nothing may be left, and everybody's outcome is in the books."""
        for pool in self.pools:
            await pool.close()
            status = pool.status()
            assert status.state is PoolState.CLOSED, f"{pool.name} is {status.state.value} after close()"
            assert (status.total, status.waiting, status.leases, status.abandoned) == (0, 0, 0, 0)
        if self.allowance is not None:
            assert self.allowance.used == 0
        self.auditor.finish()
        self.backend.check(all_closed=True)
        self.compare_tallies()

    def compare_tallies(self) -> None:
        """The books tell what the borrowers saw.

        Save that one who was cancelled when its error was decided, but not yet
        told, saw the cancellation: the books may have either.
        """
        counted, seen = self.counted(), +self.tally
        if counted == seen:
            return
        early = seen - counted
        assert early == Counter(cancelled=1), f"counted {counted}, seen {seen}"
        assert (counted - seen).keys() <= {"timed out", "refused or failed"}, (
            f"counted {counted}, seen {seen}"
        )

    def counted(self) -> Counter[str]:
        """The outcomes in the books of all pools, in the words of the tally."""
        counted: Counter[str] = Counter()
        for pool in self.pools:
            stats = pool.stats()
            counted["requests"] += stats.requests
            counted["served"] += stats.served
            counted["timed out"] += stats.timed_out
            counted["cancelled"] += stats.cancelled
            counted["refused or failed"] += stats.refused + stats.failed
        return +counted

    def now(self) -> float:
        """Virtual seconds."""
        return current().time()
