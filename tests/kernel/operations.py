"""Every operation of a pool that can be attacked while it waits, as a coroutine over a stage."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from millpond.testing.driver import ConnectionLost
from tests.kernel.situations import Situation
from tests.kernel.stage import Stage


@dataclass(frozen=True)
class Operation:
    """One of them.

    Attributes:
        name: as its caller writes it.
        run: does it.
        least: fewer points of attack than this, over all situations and one seed, and the sweep missed some.
        settings: that it needs.
        is_exclusive: shared pools refuse it.
        ends_the_pool: those behind it are refused rather than served.
    """

    name: str
    run: Callable[[Stage], Awaitable[object]]
    least: int
    settings: dict[str, Any] = field(default_factory=dict)
    is_exclusive: bool = False
    ends_the_pool: bool = False

    def fits(self, situation: Situation) -> bool:
        """It can be done there."""
        return not (self.is_exclusive and situation.is_shared)


OPERATIONS: list[Operation] = []


def operation(
    name: str, *, least: int, **options: Any
) -> Callable[..., Callable[[Stage], Awaitable[object]]]:
    """Enter the decorated function in the list; options as of `Operation`."""

    def enter(run: Callable[[Stage], Awaitable[object]]) -> Callable[[Stage], Awaitable[object]]:
        OPERATIONS.append(Operation(name, run, least, **options))
        return run

    return enter


async def _work(stage: Stage, conn: Any) -> None:
    if stage.settings.max_leases_per_connection == 1:
        await conn.request("attacked")
    await asyncio.sleep(0.003)


@operation("async with pool.acquire()", least=100)
async def _borrow(stage: Stage) -> None:
    with stage.request() as request:
        async with stage.pool.acquire(timeout=None) as conn:
            request.end("served")
            with stage.using(conn):
                pass


@operation("async with pool.acquire(timeout)", least=100)
async def _borrow_in_time(stage: Stage) -> None:
    with stage.request() as request:
        async with stage.pool.acquire(timeout=0.012) as conn:
            request.end("served")
            with stage.using(conn):
                pass


@operation("await pool.acquire()", least=100, is_exclusive=True)
async def _acquire(stage: Stage) -> None:
    with stage.request() as request:
        conn = await stage.pool.acquire(timeout=None)
        request.end("served")
    with stage.using(conn):
        pass
    await stage.owner_of(conn).release(conn)


@operation("await pool.lease()", least=100)
async def _lease(stage: Stage) -> None:
    with stage.request() as request:
        lease = await stage.pool.lease(timeout=None)
        request.end("served")
    with stage.using(lease.connection):
        pass
    lease.release()


@operation("the end of async with pool.acquire()", least=100)
async def _leave_context(stage: Stage) -> None:
    with stage.request() as request:
        async with stage.pool.acquire(timeout=None) as conn:
            request.end("served")
            with stage.using(conn):
                await _work(stage, conn)


@operation("await pool.release()", least=100, is_exclusive=True)
async def _release(stage: Stage) -> None:
    with stage.request() as request:
        conn = await stage.pool.acquire(timeout=None)
        request.end("served")
    try:
        with stage.using(conn):
            await _work(stage, conn)
    finally:
        await stage.owner_of(conn).release(conn)


@operation("the end of a lease", least=100)
async def _leave_lease(stage: Stage) -> None:
    with stage.request() as request:
        lease = await stage.pool.lease(timeout=None)
        request.end("served")
    async with lease as conn:
        with stage.using(conn):
            await _work(stage, conn)


@operation("pool.report()", least=100)
async def _report(stage: Stage) -> None:
    with stage.request() as request:
        async with stage.pool.acquire(timeout=None) as conn:
            request.end("served")
            with stage.using(conn):
                await _work(stage, conn)
                stage.owner_of(conn).report(conn, ConnectionLost("seen and handled"))
                stage.backend.kill(conn)
                await asyncio.sleep(0.001)


@operation("pool.detach()", least=100, is_exclusive=True)
async def _detach(stage: Stage) -> None:
    with stage.request() as request:
        conn = await stage.pool.acquire(timeout=None)
        request.end("served")
    stage.owner_of(conn).detach(conn)
    try:
        with stage.using(conn):
            await _work(stage, conn)
    finally:
        stage.driver.terminate(conn)


@operation("pool.resize()", least=100)
async def _resize(stage: Stage) -> None:
    stage.pool.resize(max_size=3)
    await asyncio.sleep(0.002)
    stage.pool.resize(max_size=1)
    await _borrow(stage)


@operation("pool.apply()", least=100)
async def _apply(stage: Stage) -> None:
    stage.pool.apply(stage.pool.settings.changed(max_size=2, max_uses=1, validate_after_idle=0.0))
    await asyncio.sleep(0.002)
    stage.pool.apply(stage.pool.settings.changed(max_size=1, min_size=1))
    await _borrow(stage)


@operation("pool.clear()", least=100)
async def _clear(stage: Stage) -> None:
    stage.pool.clear()
    await asyncio.sleep(0.002)
    stage.pool.clear(spread=1.0)
    await _borrow(stage)


@operation("pool.pause()", least=100)
async def _pause(stage: Stage) -> None:
    stage.pool.pause()
    await asyncio.sleep(0.002)
    stage.pool.resume()
    await _borrow(stage)


@operation("await pool.drain()", least=30)
async def _drain(stage: Stage) -> None:
    await stage.pool.drain(timeout=None)
    stage.pool.resume()


@operation("await pool.close()", least=30, ends_the_pool=True)
async def _close(stage: Stage) -> None:
    await stage.pool.close()


@operation("await pool.close(timeout)", least=30, ends_the_pool=True)
async def _close_in_time(stage: Stage) -> None:
    await stage.pool.close(timeout=0.006)


@operation("async with pool", least=100, ends_the_pool=True)
async def _context(stage: Stage) -> None:
    async with stage.pool:
        await _borrow(stage)


@operation(
    "async with an eager pool", least=100, ends_the_pool=True, settings={"eager_init": True, "min_size": 1}
)
async def _eager_context(stage: Stage) -> None:
    async with stage.pool:
        await _borrow(stage)


@operation("await pool.initialize()", least=100)
async def _initialize(stage: Stage) -> None:
    await stage.pool.initialize()
    await _borrow(stage)


@operation("await pool.initialize(), eager", least=30, settings={"eager_init": True, "min_size": 1})
async def _initialize_eagerly(stage: Stage) -> None:
    await stage.pool.initialize()


@operation("await pool.check()", least=30)
async def _check(stage: Stage) -> None:
    await stage.pool.check(timeout=0.05)
