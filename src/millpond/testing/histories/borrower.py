"""A borrower of a history: takes leases in every way there is, and makes mistakes with them."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from typing import TYPE_CHECKING, Any, Final

from millpond.errors import PoolError, PoolTimeout, ReleaseError
from millpond.settings import UNSET
from millpond.testing.driver import BackendError, Ending
from millpond.testing.histories import draws
from millpond.testing.histories.tally import HistoryFailure
from millpond.testing.loop import current
from millpond.testing.watch import HEDGE_S, SLACK_S

if TYPE_CHECKING:
    import random
    from collections.abc import AsyncIterator

    from millpond._core.pool import ConnectionPool
    from millpond.settings import Timeout
    from millpond.testing.driver import ScriptedBackend
    from millpond.testing.histories.history import History

    Pool = ConnectionPool[Any]


class Mistake(Exception):
    """The borrower's own error, inside its lease."""


OWN_ERRORS: Final = (BackendError, Mistake, ValueError)


class Borrower:
    """This takes one lease after the other until the history is over, or it is cancelled."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.rng: random.Random = history.rng
        self.tally = history.tally

    async def live(self, leases: int) -> None:
        """Take up to so many leases."""
        for _ in range(leases):
            if self.history.is_over:
                return
            await self.borrow()
            await asyncio.sleep(self.rng.choice(draws.PAUSES))

    async def borrow(self) -> None:
        """Take one lease, in one of the ways there are; what goes wrong with it is not passed on."""
        rng = self.rng
        pool = self.history.any_pool()
        is_shared = pool.settings.max_leases_per_connection > 1
        timeout: Timeout = rng.choice((UNSET, UNSET, None, *draws.TIMEOUTS))
        way = rng.choice((self.in_passing, self.in_passing, self.by_lease, self.by_hand))
        if is_shared and way == self.by_hand:
            way = self.by_lease
        with contextlib.suppress(PoolError, TimeoutError, *OWN_ERRORS):
            if rng.random() < 0.08:
                async with asyncio.timeout(rng.choice((0.0, 0.01, 0.2))):
                    await way(pool, timeout)
            else:
                await way(pool, timeout)

    # -- the ways to take a lease ----------------------------------------------------------------------

    async def in_passing(self, pool: Pool, timeout: Timeout) -> None:
        """`async with pool.acquire()`."""
        lease = pool.acquire(timeout=timeout)
        async with self.asked(pool, timeout):
            conn = await lease.__aenter__()
        try:
            await self.use(pool, conn)
        except BaseException as error:
            await lease.__aexit__(type(error), error, error.__traceback__)
            self.was_shown(conn, error)
            raise
        else:
            await lease.__aexit__(None, None, None)
            self.was_shown(conn, None)
        finally:
            self.history.count()

    async def by_hand(self, pool: Pool, timeout: Timeout) -> None:
        """`await pool.acquire()` and `await pool.release()`; at times released twice, or as broken."""
        rng = self.rng
        async with self.asked(pool, timeout):
            conn = await pool.acquire(timeout=timeout)
        pool = self.history.owner(conn, pool)
        try:
            await self.use(pool, conn)
        finally:
            self.history.count()
            if conn not in self.history.detached:
                discard, error = rng.random() < 0.1, sys.exception()
                await pool.release(conn, discard=discard)
                if not discard:
                    self.was_shown(conn, error)
                if rng.random() < 0.1:
                    await self.release_again(pool, conn)

    async def release_again(self, pool: Pool, conn: Any) -> None:
        """The connection is nobody's now, or another's: if nobody has it the pool says so."""
        slot = pool._ledger.by_id.get(id(conn))
        if slot is None or not slot.leases:
            self.history.count()
            try:
                await pool.release(conn)
            except ReleaseError:
                return
            raise HistoryFailure(f"{pool!r} took {conn!r} back twice")

    async def by_lease(self, pool: Pool, timeout: Timeout) -> None:
        """`await pool.lease()`, given back, discarded, or given back with an error."""
        rng = self.rng
        async with self.asked(pool, timeout):
            lease = await pool.lease(timeout=timeout)
        conn = lease.connection
        try:
            await self.use(pool, conn)
        finally:
            self.history.count()
            draw = rng.random()
            if draw < 0.1:
                lease.discard()
            else:
                error = draws.error(rng) if draw < 0.3 else None
                lease.release(error)
                self.was_shown(conn, error)
            if rng.random() < 0.1:
                self.end_again(lease)

    def was_shown(self, conn: Any, error: BaseException | None) -> None:
        """What is kept of a lease that has just ended, the driver has judged by the error it ended with."""
        is_kept = conn.ending is Ending.OPEN and conn not in self.history.detached
        if is_kept and conn.judged_by != id(error):
            raise HistoryFailure(f"{conn!r} came back with {error!r}, and was judged by something else")

    def end_again(self, lease: Any) -> None:
        """A lease object ends once."""
        self.history.count()
        try:
            lease.release()
        except ReleaseError:
            return
        raise HistoryFailure(f"{lease!r} ended twice")

    @contextlib.asynccontextmanager
    async def asked(self, pool: Pool, timeout: Timeout) -> AsyncIterator[None]:
        """Around the wait for a lease: count how it ends, and see that it ends in time."""
        history, tally = self.history, self.tally
        history.count()
        tally.requests += 1
        limit = pool._last_heir().settings.acquire_timeout if timeout is UNSET else timeout
        began = current().time()
        try:
            yield
        except asyncio.CancelledError:
            tally.cancelled += 1
            raise
        except PoolTimeout:
            tally.timed_out += 1
            raise
        except PoolError:
            tally.refused += 1
            raise
        else:
            tally.served += 1
        finally:
            now = current().time()
            has_stalled = current().stalled_until + HEDGE_S >= began
            if isinstance(limit, (int, float)) and now > began + limit + SLACK_S and not has_stalled:
                raise HistoryFailure(f"an acquire({limit:g}) of {pool!r} took {now - began:.6f} s")

    # -- what is done with it --------------------------------------------------------------------------

    async def use(self, pool: Pool, conn: Any) -> None:
        """Do something with a connection; the backend knows for how long."""
        if conn.is_closed:
            raise HistoryFailure(f"{pool!r} lent {conn!r}, which is known to be dead")
        backend = conn.backend
        deeds = (self.well, self.well, self.well, self.badly) if self.history.is_rough else (self.well,)
        try:
            with backend.using(conn):
                await self.rng.choice(deeds)(pool, conn, backend)
        finally:
            if conn in self.history.detached and conn.ending is Ending.OPEN:
                backend.end(conn, Ending.TERMINATED)

    async def well(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """As one should: nothing, a request, a transaction, or only holding it."""
        draw = self.rng.random()
        if draw < 0.4:
            return
        if draw < 0.7:
            await conn.request("how are you")
        elif draw < 0.8:
            await conn.begin()
            await conn.commit()
        else:
            await asyncio.sleep(self.rng.choice((0, 0.001, 0.01, 0.1)))

    async def badly(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """One of the mistakes that borrowers make."""
        mistakes = (
            self.leave_a_transaction, self.leave_a_variable, self.leave_an_answer, self.lose_it,
            self.raise_it, self.report_it, self.detach_it, self.nest, self.hold_too_long,
        )  # fmt: skip
        await self.rng.choice(mistakes)(pool, conn, backend)

    async def leave_a_transaction(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Begin, and go; in a shared session others are in it too."""
        if not backend.is_shared:
            await conn.begin()

    async def leave_a_variable(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Change the session, and go."""
        if not backend.is_shared:
            await conn.set("mine", 1)

    async def leave_an_answer(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Send, and go without reading."""
        if not backend.is_shared:
            conn.send("anybody there")

    async def lose_it(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """The server drops it in the middle of the lease."""
        conn.kill(silently=self.rng.random() < 0.3, after=self.rng.choice((0.0, 0.0, 0.005)))
        await asyncio.sleep(self.rng.choice((0, 0, 0.01)))

    async def raise_it(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Fail with an error of one's own, or one that means a failover."""
        await asyncio.sleep(self.rng.choice((0, 0.001)))
        raise self.rng.choice((Mistake("mine"), draws.error(self.rng)))

    async def report_it(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Handle an error, and say so."""
        pool = self.history.owner(conn, pool)
        with contextlib.suppress(ReleaseError):  # it was cut meanwhile
            pool.report(conn, draws.error(self.rng))
        await asyncio.sleep(self.rng.choice((0, 0.01)))

    async def detach_it(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Keep it."""
        pool = self.history.owner(conn, pool)
        with contextlib.suppress(ReleaseError):  # it is shared, or was cut meanwhile
            pool.detach(conn)
            self.history.detached.append(conn)
            self.history.count()
            await asyncio.sleep(self.rng.choice((0, 0.05)))

    async def nest(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Take a second lease inside the first."""
        with contextlib.suppress(PoolError, *OWN_ERRORS):
            await self.in_passing(self.history.any_pool(), self.rng.choice((0, 0.02, 0.1)))

    async def hold_too_long(self, pool: Pool, conn: Any, backend: ScriptedBackend) -> None:
        """Forget the time."""
        await asyncio.sleep(self.rng.choice((0.2, 0.6, 1.5)))
