"""What goes wrong in a history, and what operators do meanwhile; one thing a step."""

from __future__ import annotations

import contextlib
from functools import partial
from typing import TYPE_CHECKING, Any

from millpond.errors import PoolError
from millpond.status import PoolState
from millpond.testing.histories import draws
from millpond.testing.histories.tally import HistoryFailure
from millpond.testing.loop import current
from millpond.testing.watch import HEDGE_S, SLACK_S

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from millpond._core.pool import ConnectionPool
    from millpond.testing.driver import ScriptedBackend
    from millpond.testing.histories.history import History

    Pool = ConnectionPool[Any]


class Troubles:
    """This makes trouble in one history, drawn by weight."""

    def __init__(self, history: History) -> None:
        self.history = history
        self.rng: random.Random = history.rng
        kinds: dict[Callable[[], object], int] = {
            self.cancel: 14, self.cancel_later: 14, self.cancel_twice: 6, self.newcomers: 16,
            self.backend_down: 4, self.backend_well: 8, self.kill_one: 6, self.kill_all: 2, self.demote: 3,
            self.freeze: 2, self.limit_clients: 2, self.script: 14, self.resize: 5, self.apply: 3,
            self.clear: 5, self.pause: 3, self.resume: 7, self.drain: 2, self.check: 3, self.initialize: 2,
            self.look: 3, self.stall: 2, self.hand_over: 2, self.resize_allowance: 2,
        }  # fmt: skip
        self._kinds, self._weights = list(kinds), list(kinds.values())

    def make(self) -> None:
        """Do one thing."""
        self.history.count()
        (kind,) = self.rng.choices(self._kinds, self._weights)
        kind()

    def _pool(self) -> Pool:
        return self.rng.choice([*self.history.running()] or self.history.pools)

    def _backend(self) -> ScriptedBackend:
        return self.rng.choice(self.history.backends)

    # -- borrowers -------------------------------------------------------------------------------------

    def cancel(self) -> None:
        """Somebody gives up."""
        tasks = [task for task in self.history.tasks if not task.done()]
        if tasks:
            self.history.cancel(self.rng.choice(tasks))

    def cancel_later(self) -> None:
        """Somebody gives up at some step to come, whatever runs then."""
        tasks = [task for task in self.history.tasks if not task.done()]
        if tasks:
            step = current().steps + self.rng.randrange(1, 40)
            current().at_step(step, partial(self.history.cancel, self.rng.choice(tasks)))

    def cancel_twice(self) -> None:
        """Somebody is told to give up again before the first word was heard, or shortly after."""
        tasks = [task for task in self.history.tasks if not task.done()]
        if tasks:
            task = self.rng.choice(tasks)
            self.history.cancel(task)
            current().at_step(current().steps + self.rng.randrange(1, 4), partial(self.history.cancel, task))

    def newcomers(self) -> None:
        """Borrowers come."""
        for _ in range(self.rng.choice((1, 1, 2, 4))):
            self.history.borrower_comes()

    # -- the backend -----------------------------------------------------------------------------------

    def backend_down(self) -> None:
        """The server dies."""
        self._backend().down(silently=self.rng.random() < 0.3)

    def backend_well(self) -> None:
        """The server is well again."""
        self.history.heal(self._backend())

    def kill_one(self) -> None:
        """The server drops a connection."""
        backend = self._backend()
        if live := backend.live:
            backend.kill(self.rng.choice(live), silently=self.rng.random() < 0.5)

    def kill_all(self) -> None:
        """The server drops all connections, and takes new ones."""
        backend = self._backend()
        for conn in backend.live:
            backend.kill(conn, silently=self.rng.random() < 0.3)

    def demote(self) -> None:
        """A failover: this node is no longer the primary, or there is a new one."""
        backend = self._backend()
        backend.demote()
        if self.rng.random() < 0.7:
            backend.promote()

    def freeze(self) -> None:
        """The server stops answering, and goes on after a while."""
        backend = self._backend()
        backend.freeze()
        current().call_later(self.rng.choice((0.03, 0.5, 2.0)), backend.thaw)

    def limit_clients(self) -> None:
        """The server is full, or no longer."""
        self._backend().max_clients = self.rng.choice((0, 1, 2, None))

    def script(self) -> None:
        """The next call of some kind misbehaves."""
        rng, backend = self.rng, self._backend()
        draw = rng.random()
        if draw < 0.45:
            backend.connect_script.append(draws.trouble_with_connect(rng))
        elif draw < 0.55:
            backend.request_script.append(draws.trouble_with_request(rng))
        else:
            scripts = (backend.ping_script, backend.reset_script, backend.close_script)
            rng.choice(scripts).append(draws.trouble_with_call(rng))

    # -- operators -------------------------------------------------------------------------------------

    def resize(self) -> None:
        """Other sizes."""
        pool, rng = self._pool(), self.rng
        if pool.settings.max_idle is None:
            pool.resize(min_size=rng.randrange(2), max_size=rng.randrange(1, 5))
        else:
            pool.resize(max_size=rng.randrange(max(1, pool.settings.min_size), 5))

    def apply(self) -> None:
        """Other settings."""
        pool = self._pool()
        pool.apply(self.history.other_settings(pool.settings))

    def clear(self) -> None:
        """A new generation."""
        pool = self._pool()
        self.history.auditor.clears(pool)
        pool.clear(self.rng.choice((0.0, 0.0, 0.3)))

    def pause(self) -> None:
        """Lend nothing for now."""
        with contextlib.suppress(PoolError):
            self._pool().pause(self.rng.choice(("queue", "queue", "refuse")))

    def resume(self) -> None:
        """Lend again."""
        with contextlib.suppress(PoolError):
            self._pool().resume()

    def drain(self) -> None:
        """Give no new leases until all are back."""
        self.history.chore(self._drained(self._pool(), self.rng.choice((0.0, 0.1, 1.0))))

    async def _drained(self, pool: Pool, timeout: float) -> None:
        with contextlib.suppress(PoolError):
            async with self._in_time("drain", pool, timeout):
                await pool.drain(timeout)

    def check(self) -> None:
        """Is the backend there?"""
        self.history.chore(self._checked(self._pool(), self.rng.choice((0.0, 0.1, 1.0))))

    async def _checked(self, pool: Pool, timeout: float) -> None:
        async with self._in_time("check", pool, timeout):
            await pool.check(timeout)

    def initialize(self) -> None:
        """Open it, perhaps again."""
        self.history.chore(self._initialized(self._pool(), self.rng.choice((0.1, 1.0))))

    async def _initialized(self, pool: Pool, timeout: float) -> None:
        with contextlib.suppress(PoolError):
            # What an eager one has to undo may take two seconds of grace.
            async with self._in_time("initialize", pool, timeout + 2.0):
                await pool.initialize(timeout)

    @contextlib.asynccontextmanager
    async def _in_time(self, what: str, pool: Pool, timeout: float) -> Any:
        began = current().time()
        try:
            yield
        finally:
            took = current().time() - began
            if took > timeout + SLACK_S and current().stalled_until + HEDGE_S < began:
                raise HistoryFailure(f"{what}({timeout:g}) of {pool!r} took {took:.6f} s")

    def look(self) -> None:
        """Read everything that can be read."""
        pool = self.rng.choice(self.history.pools)
        status, _, _ = pool.status(), pool.stats(), pool.holders()
        parts = status.opening + status.idle + status.busy + status.tending + status.closing
        if status.total != parts:
            raise HistoryFailure(f"the parts of {status} do not add up")

    def stall(self) -> None:
        """The loop stands still."""
        current().stall(self.rng.choice((0.05, 0.5, 1.5, 3.0)))

    def hand_over(self) -> None:
        """Another pool takes over the queue: a new version, or one that is there."""
        self.history.hand_over()

    def resize_allowance(self) -> None:
        """More or fewer connections for all pools together."""
        if self.history.allowance is not None:
            self.history.allowance.resize(self.rng.randrange(1, 6))


def is_running(pool: Pool) -> bool:
    """True until its end has begun."""
    return pool.state not in (PoolState.CLOSING, PoolState.CLOSED)
