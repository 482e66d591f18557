"""What a pool takes beside time: bytes for a waiter and for an idle connection, milliseconds to import."""

from __future__ import annotations

import asyncio
import compileall
import gc
import os
import shutil
import subprocess
import sys
import tempfile
import tracemalloc
from collections.abc import Awaitable, Callable, Coroutine
from pathlib import Path
from typing import Any, Final

import millpond
from benchmarks.harness import Measure, Rounds, interleave
from benchmarks.subjects import Connection, millpond_pool

OURS: Final = "millpond"
STANDARD: Final = "email.mime.multipart, http.server, sqlite3"
"""Modules of the standard library that together take about as long: what the machine makes of imports."""
_IMPORT: Final = "import asyncio, time; t = time.perf_counter(); import {}; print(time.perf_counter() - t)"


def _traced() -> int:
    gc.collect()
    return tracemalloc.get_traced_memory()[0]


async def waiter_bytes(count: int = 2000) -> float:
    """Bytes of one waiter, its future included, beyond a task that waits for a future shared by all."""
    pool = millpond_pool(1)
    loop = asyncio.get_running_loop()

    async def borrow(_: Awaitable[None]) -> None:
        async with pool.acquire(timeout=60.0):
            pass

    async def idle(never: Awaitable[None]) -> None:
        await never

    async def bytes_of(story: Callable[[Awaitable[None]], Coroutine[Any, Any, None]]) -> float:
        await asyncio.sleep(0.01)  # what the last ones left to the loop is gone then
        # One for each pass: cancelling a task cancels what it waits for.
        never: asyncio.Future[None] = loop.create_future()
        before = _traced()
        tasks = [loop.create_task(story(never)) for _ in range(count)]
        await asyncio.sleep(0.01)
        used = _traced() - before
        have_ended = any(task.done() for task in tasks)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        if have_ended:
            raise RuntimeError("a task that should have waited has ended: what it holds is not a waiter's")
        return used / count

    tracemalloc.start()
    try:
        async with pool, pool.acquire():
            await bytes_of(borrow)
            await bytes_of(idle)
            return await bytes_of(borrow) - await bytes_of(idle)
    finally:
        tracemalloc.stop()


async def idle_bytes(few: int = 100, many: int = 1100) -> float:
    """Bytes of one idle connection beyond the driver's object: the slope from a small pool to a large one.

    Each connection has been lent once before, so that what its first lease leaves is counted.
    """

    async def bytes_of(size: int) -> int:
        before = _traced()
        pool = millpond_pool(size)
        await pool.initialize()
        held = [await pool.lease() for _ in range(size)]
        for lease in held:
            lease.release()
        del held, lease
        used = _traced() - before
        await pool.close()
        return used

    def objects(size: int) -> int:
        before = _traced()
        kept = [Connection() for _ in range(size)]
        used = _traced() - before - sys.getsizeof(kept)
        del kept
        return used

    tracemalloc.start()
    await bytes_of(few)
    own = (objects(many) - objects(few)) / (many - few)
    beyond = (await bytes_of(many) - await bytes_of(few)) / (many - few) - own
    tracemalloc.stop()
    return beyond


async def imports(rounds: int, *, is_compiled: bool = True) -> Rounds:
    """Seconds that `import millpond` takes in a fresh interpreter that has imported asyncio.

    Of a copy of the package, so that it does not depend on what lies beside the sources, nor on whether the
    environment lets Python write there: an interpreter that finds no bytecode compiles every module anew,
    which takes about twice as long as all the rest. Beside it, in each round, modules of the standard
    library, whose bytecode is there.

    Args:
        rounds: how many interpreters for each.
        is_compiled: with bytecode, as `pip install` leaves it; without, as `PYTHONDONTWRITEBYTECODE` does.
    """
    with tempfile.TemporaryDirectory() as place:
        copy = Path(place) / "millpond"
        source = Path(millpond.__file__).parent
        shutil.copytree(source, copy, ignore=shutil.ignore_patterns("__pycache__"))
        if is_compiled:
            compileall.compile_dir(copy, quiet=1)
        environment = os.environ | {"PYTHONPATH": place, "PYTHONDONTWRITEBYTECODE": "1"}

        def importing(what: str) -> Measure:
            async def run() -> float:
                command = [sys.executable, "-c", _IMPORT.format(what)]
                done = await asyncio.to_thread(
                    subprocess.run, command, env=environment, capture_output=True, text=True, check=True
                )
                return float(done.stdout)

            return run

        # The round that warms up has the files in memory for the others.
        return await interleave({what: importing(what) for what in (OURS, STANDARD)}, rounds=rounds)
