"""A dozen borrowers who ask numbered questions without end, and notice what goes wrong."""

import asyncio
import random
import time
from collections import Counter
from itertools import count
from types import TracebackType
from typing import Any, Final, Self

from millpond import ConnectionPool, PoolError, PoolSettings
from tests.drivers.backends import until, until_quiet
from tests.faults.subjects import Subject

BORROWERS: Final = 12
ACQUIRE_S: Final = 1.0
REQUEST_S: Final = 0.4
MARGIN_S: Final = 2.5
"""What the machine may take beyond a timeout when it is busy with something else; a hang takes longer."""
PATIENCE_S: Final = 20.0
"""How long one waits for traffic to flow again, or to suffer."""
SETTLE_S: Final = 10.0
"""How long the server may take to list just the pool's connections."""

_SHARE_IN_TRANSACTIONS: Final = 0.3
_questions = count(1)


def pool_of(subject: Subject, *, through: Any = None, **settings: Any) -> ConnectionPool[Any]:
    """A pool that gives up quickly what does not answer.

    Args:
        subject: the backend.
        through: the proxy between the two; None: straight to the server.
        settings: what is different.
    """
    where = {} if through is None else {"host": through.host, "port": through.port}
    chosen: dict[str, Any] = {
        "min_size": 2, "max_size": 5, "acquire_timeout": ACQUIRE_S, "connect_timeout": 0.5,
        "reset_timeout": 0.4, "disconnect_timeout": 0.4, "validate_after_idle": 0.5,
        "health_check_interval": 0.5, "health_check_timeout": 0.4,
        "retry_delay": 0.02, "recovery_timeout": 0.2,
        **subject.settings, **settings,
    }  # fmt: skip
    driver = subject.backend.driver(**where)
    return ConnectionPool(driver, settings=PoolSettings(**chosen), name=subject.name)


class Traffic:
    """Borrowers at work for as long as the block lasts.

    Each turn is a lease with a few questions, some of them in a transaction that is left open for the pool
    to deal with. What a fault may cost them is an error, in time; a wrong answer, or a row of a transaction
    that is not theirs, is remembered for `assert_unharmed`, and any other exception ends the test.

    Attributes:
        answered: questions that were answered rightly.
        turns: turns that ended well.
        troubles: errors, by the name of their class.
        wrong: what nobody should have seen.
        longest_acquire, longest_turn: seconds.
    """

    def __init__(
        self,
        subject: Subject,
        pool: ConnectionPool[Any],
        *,
        borrowers: int = BORROWERS,
        acquire_timeout: float = ACQUIRE_S,
        request_timeout: float = REQUEST_S,
    ) -> None:
        self.subject, self.pool = subject, pool
        self.answered = self.turns = 0
        self.troubles: Counter[str] = Counter()
        self.wrong: list[str] = []
        self.longest_acquire = self.longest_turn = 0.0
        self._acquire_timeout, self._request_timeout = acquire_timeout, request_timeout
        self._borrowers = borrowers
        self._draw = random.Random(20261121)
        self._tasks: list[asyncio.Task[None]] = []
        self._is_over = False
        self._expected: tuple[type[Exception], ...] = (PoolError, OSError, TimeoutError, *subject.errors)

    async def __aenter__(self) -> Self:
        self._tasks = [asyncio.create_task(self._work()) for _ in range(self._borrowers)]
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._is_over = True
        _, late = await asyncio.wait(self._tasks, timeout=self.longest_allowed)
        for task in late:
            task.cancel()
        outcomes = await asyncio.gather(*self._tasks, return_exceptions=True)
        if error is None:
            assert not late, f"{len(late)} borrowers hang"
            for outcome in outcomes:
                if outcome is not None:
                    raise outcome

    @property
    def longest_allowed(self) -> float:
        """How long one turn may take, seconds."""
        return self._acquire_timeout + self._request_timeout + self.subject.patience + MARGIN_S

    async def flows(self, turns: int = 40) -> None:
        """Return when so many turns more have ended well."""
        enough = self.turns + turns

        async def is_so() -> bool:
            return self.turns >= enough or self._has_ended()

        await self._until(is_so, "flows")

    async def suffers(self, troubles: int = 12) -> None:
        """Return when so many errors more have been seen."""
        enough = self.troubles.total() + troubles

        async def is_so() -> bool:
            return self.troubles.total() >= enough or self._has_ended()

        await self._until(is_so, "suffers")

    def assert_unharmed(self) -> None:
        """Nobody saw what was another's, and nobody waited longer than they had said."""
        assert not self.wrong
        assert self.longest_acquire < self._acquire_timeout + MARGIN_S
        assert self.longest_turn < self.longest_allowed
        assert self.answered > 0

    def _has_ended(self) -> bool:
        return any(task.done() for task in self._tasks)

    async def _until(self, condition: Any, what: str) -> None:
        try:
            await until(condition, within=PATIENCE_S)
        except TimeoutError:
            raise AssertionError(
                f"traffic never {what}: {self.turns} turns, {dict(self.troubles)}, {self.pool!r}, "
                f"{self.pool.status()!r}"
            ) from None
        for task in self._tasks:
            if task.done():
                task.result()

    async def _work(self) -> None:
        while not self._is_over:
            began = time.monotonic()
            try:
                await self._turn()
                self.turns += 1
            except self._expected as error:
                self.troubles[type(error).__name__] += 1
            self.longest_turn = max(self.longest_turn, time.monotonic() - began)
            await asyncio.sleep(0.001)

    async def _turn(self) -> None:
        began = time.monotonic()
        try:
            lease = await self.pool.lease(timeout=self._acquire_timeout)
        finally:
            self.longest_acquire = max(self.longest_acquire, time.monotonic() - began)
        try:
            async with asyncio.timeout(self._request_timeout):
                await self._converse(lease.connection)
        except BaseException as error:
            lease.release(error)
            raise
        lease.release(None)

    async def _converse(self, conn: Any) -> None:
        for _ in range(self._draw.randrange(1, 4)):
            number = next(_questions)
            self._check(await self.subject.backend.ask(conn, number), number)
        if self.subject.has_transactions and self._draw.random() < _SHARE_IN_TRANSACTIONS:
            number = next(_questions)
            answer, rows = await self.subject.transact(conn, number)
            self._check(answer, number)
            if rows:
                self.wrong.append(f"{rows} rows of another's transaction")

    def _check(self, answer: int, number: int) -> None:
        if answer == number:
            self.answered += 1
        else:
            self.wrong.append(f"{answer} in answer to {number}")


async def strangers(subject: Subject, pool: ConnectionPool[Any], *, within: float = SETTLE_S) -> int:
    """How many sessions the server lists that are not the pool's, or the other way round.

    The pool comes to rest first, and then the server has `within` seconds to hear of what has ended.
    """
    await until_quiet(pool)
    found: list[int] = []

    async def agree() -> bool:
        found[:] = await subject.numbers()
        return len(found) == pool.status().total == pool.status().idle

    try:
        await until(agree, within=within)
    except TimeoutError:
        return max(1, abs(len(found) - pool.status().total))
    leases = [await pool.lease(timeout=ACQUIRE_S) for _ in found]
    try:
        own = [await subject.number(lease.connection) for lease in leases]
    finally:
        for lease in leases:
            lease.release(None)
    return (Counter(own) - Counter(found)).total()
