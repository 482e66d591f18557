"""What happens to a SQLite file in the middle of traffic: another process locks it, or replaces it."""

import asyncio
import sqlite3
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any, Final

import pytest

from millpond import ConnectionPool, PoolError, PoolSettings
from millpond.drivers import Unfit
from tests.drivers.backends import SQLite, make_file, until, until_quiet
from tests.faults.traffic import MARGIN_S, PATIENCE_S

WRITERS: Final = 6
BUSY_S: Final = 0.2

# Holds the only lock that writers need, until its input ends.
LOCK: Final = """
import sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture
def backend(tmp_path: Path) -> SQLite:
    """A file with a table."""
    make_file(tmp_path / "notes.db")
    return SQLite(tmp_path / "notes.db")


def rows(path: Path) -> list[int]:
    """What a reader of the file finds."""
    with closing(sqlite3.connect(path)) as connection:
        return [int(body) for (body,) in connection.execute(f"SELECT body FROM {SQLite.table}")]


class Writers:
    """A few borrowers who write one row a lease, for as long as the block lasts.

    Attributes:
        confirmed: the numbers whose commit succeeded.
        troubles: errors, by the name of their class.
        longest: seconds that one turn took.
    """

    def __init__(self, pool: ConnectionPool[Any]) -> None:
        self.confirmed: list[int] = []
        self.troubles: Counter[str] = Counter()
        self.longest = 0.0
        self._pool, self._numbers = pool, count(1)
        self._is_over = False

    @asynccontextmanager
    async def at_work(self) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(self._work()) for _ in range(WRITERS)]
        yield
        self._is_over = True
        await asyncio.gather(*tasks)

    async def confirm(self, more: int = 20) -> None:
        """Return when so many rows more are confirmed."""
        enough = len(self.confirmed) + more

        async def is_so() -> bool:
            return len(self.confirmed) >= enough

        await until(is_so, within=PATIENCE_S)

    async def suffer(self, name: str, more: int = 3) -> None:
        """Return when so many errors more of this class were seen."""
        enough = self.troubles[name] + more

        async def is_so() -> bool:
            return self.troubles[name] >= enough

        await until(is_so, within=PATIENCE_S)

    async def _work(self) -> None:
        loop = asyncio.get_running_loop()
        while not self._is_over:
            began = loop.time()
            number = next(self._numbers)
            try:
                async with self._pool.acquire(timeout=2.0) as conn:
                    await conn.execute(f"INSERT INTO {SQLite.table} VALUES (?)", (str(number),))
                    await conn.commit()
                    self.confirmed.append(number)
            except (PoolError, Unfit, sqlite3.Error) as error:
                self.troubles[type(error).__name__] += 1
            self.longest = max(self.longest, loop.time() - began)
            await asyncio.sleep(0.001)


def pool_over(backend: SQLite) -> ConnectionPool[Any]:
    settings = PoolSettings(min_size=0, max_size=3, retry_delay=0.02, recovery_timeout=0.2)
    return ConnectionPool(backend.driver(busy_timeout=BUSY_S), settings=settings, name="file")


async def test_a_file_that_another_process_locks(backend: SQLite) -> None:
    """Writers are told so after the busy timeout, and write on afterwards; every confirmed row is there."""
    async with pool_over(backend) as pool:
        writers = Writers(pool)
        async with writers.at_work():
            await writers.confirm()
            locker = await asyncio.to_thread(
                subprocess.Popen,
                [sys.executable, "-c", LOCK, str(backend.path)],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
            )
            with locker:
                assert locker.stdout is not None
                assert locker.stdin is not None
                assert await asyncio.to_thread(locker.stdout.readline) == b"locked\n"
                # What was stored a moment before the lock may be confirmed a moment after.
                while_locked = rows(backend.path)
                await writers.suffer("OperationalError")
                assert rows(backend.path) == while_locked
                assert set(writers.confirmed) <= set(while_locked)
                locker.stdin.close()
            await writers.confirm()
        await until_quiet(pool)
        await backend.gone(left=pool.status().total)

    assert writers.longest < 2.0 + 2 * BUSY_S + MARGIN_S
    assert sorted(rows(backend.path)) == sorted(writers.confirmed)


async def test_a_file_that_is_replaced(backend: SQLite) -> None:
    """Nothing is confirmed that went into the old one; what comes later is in the new one."""
    async with pool_over(backend) as pool:
        writers = Writers(pool)
        async with writers.at_work():
            await writers.confirm()
            for each in backend.path.parent.glob(f"{backend.path.name}*"):
                each.rename(each.with_name(f"old-{each.name}"))
            make_file(backend.path)
            before = set(writers.confirmed)
            await writers.suffer("Unfit", 1)
            await writers.confirm()
        await until_quiet(pool)
        await backend.gone(left=pool.status().total)

    # A commit may have been under way in each connection when the file went.
    in_the_new = set(rows(backend.path))
    assert len(set(writers.confirmed) - before - in_the_new) <= 3
    assert in_the_new <= set(writers.confirmed)
    assert len(in_the_new) >= 17
