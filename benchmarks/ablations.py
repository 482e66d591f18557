"""What each thing costs that a target is missed by: `python -m benchmarks.ablations [part ...]`.

A line is left out of a copy of the short way, the garbage collector is switched off, a reset is run alone:
the numbers of `benchmarks.limits` come from here.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import os
import time
from collections import deque
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Final

from benchmarks import micro, postgresql
from benchmarks.copies import (
    ALIKE,
    AS_IT_IS,
    HAND_OVER,
    HOLD_TIME,
    LISTENER,
    OWN_TASK,
    VERDICT,
    Change,
    pool_with,
)
from benchmarks.harness import Measure, Rounds, interleave, shown
from benchmarks.results import Table
from benchmarks.subjects import Lease, Nothing, NullDriver, millpond_pool, nobody, psycopg_pool
from millpond import ConnectionPool, PoolSettings, Verdict
from millpond.drivers._postgresql_session import CLEAN_SESSION, DEALLOCATE_PREPARED

LEFT_OUT: Final[dict[str, tuple[Change, ...]]] = {
    AS_IT_IS: (),
    ALIKE: (),
    "the hold time": HOLD_TIME,
    "the thread, on the way in": (
        (
            "lease",
            "            and here() == pool._here\n        ):\n            slot",
            "        ):\n            slot",
        ),
    ),
    "the task, on the way out": OWN_TASK,
    "whether it is closed": (("lease", " and not is_closed(conn)", ""),),
    "the driver's verdict": VERDICT,
    "that somebody may wait": (
        (
            "lease",
            "                if pool._order and (waiter := pool._queue.take()) is not None:\n"
            "                    pool._lender.pass_on(slot, waiter, now)\n"
            "                    return DONE\n",
            "",
        ),
    ),
}
"""What is left out of the short way."""

_CLOCK: Final = time.process_time


async def short_way(rounds: int) -> list[Table]:
    """An uncontended lease, with one thing left out at a time."""
    pools = {what: await pool_with(changes) for what, changes in LEFT_OUT.items()}
    measures = {"nothing": micro.uncontended(Nothing)}
    measures |= {what: micro.uncontended(pool.acquire) for what, pool in pools.items()}
    found = await interleave(measures, rounds=5 * rounds)
    for pool in pools.values():
        await pool.close()
    rows = []
    for what in pools:
        saved = found.each(lambda whole, less, base: (whole - less) / base, AS_IT_IS, what, "nothing")
        rows.append([what, shown(found.cost_us(what)), str(found.ratio(what, "nothing")), str(saved)])
    head = ["without", "µs of the processor", "÷ `async with` over nothing", "that takes off"]
    return [Table("The short way, with one thing left out", head, rows)]


async def hand_overs(rounds: int) -> list[Table]:
    """A turn of 1,000 tasks on ten connections, with one thing left out at a time."""
    pools = {what: await pool_with(changes) for what, changes in HAND_OVER.items()}
    base = asyncio.Semaphore(micro.NARROW)
    leases: dict[str, Lease] = {micro.SEMAPHORE: lambda: base}
    leases |= {what: pool.acquire for what, pool in pools.items()}
    found = await interleave(
        {what: micro.handed_over(lease, 1000, 5) for what, lease in leases.items()}, rounds=3 * rounds
    )
    for pool in pools.values():
        await pool.close()
    rows = []
    for what in pools:
        saved = found.each(
            lambda whole, less, semaphore: (whole - less) / semaphore, AS_IT_IS, what, micro.SEMAPHORE
        )
        rows.append([what, shown(found.cost_us(what)), str(found.ratio(what, micro.SEMAPHORE)), str(saved)])
    head = ["without", "µs of the processor", "÷ asyncio.Semaphore", "that takes off"]
    return [Table("A hand-over, with one thing left out", head, rows)]


async def listeners(rounds: int) -> list[Table]:
    """A lease that nobody else wants and one listener hears of, with one thing left out at a time."""
    unheard = await pool_with(())
    pools = {what: await pool_with(changes, listens=True) for what, changes in LISTENER.items()}
    measures = {"nobody listens": micro.uncontended(unheard.acquire)}
    measures |= {what: micro.uncontended(pool.acquire) for what, pool in pools.items()}
    found = await interleave(measures, rounds=5 * rounds)
    for pool in (unheard, *pools.values()):
        await pool.close()

    def less_us(more: float, less: float) -> float:
        return (more - less) * 1e6

    rows = [
        [
            what,
            shown(found.cost_us(what)),
            str(found.each(less_us, what, "nobody listens")),
            str(found.each(less_us, AS_IT_IS, what)),
        ]
        for what in pools
    ]
    head = ["without", "µs of the processor", "above one that nobody hears of, µs", "that takes off, µs"]
    return [Table("A listener, with one thing left out", head, rows)]


class Soiling(NullDriver):
    """Every lease leaves something behind; to clean it costs nothing."""

    def after_lease(self, conn: Any, error: BaseException | None) -> Verdict:
        return Verdict.RESET


async def resets(rounds: int) -> list[Table]:
    """What a reset costs that costs nothing, and what a task under a time-out is of it."""
    size = micro.NARROW
    settings = PoolSettings(min_size=size, max_size=size, max_connecting=size, eager_init=True)
    soiled: ConnectionPool[Any] = ConnectionPool(Soiling(nobody), settings=settings)
    clean = millpond_pool(size)
    for pool in (soiled, clean):
        await pool.initialize()

    async def task_and_timer() -> float:
        loop = asyncio.get_running_loop()
        times = 1000
        began = _CLOCK()
        for _ in range(times):
            timer = loop.call_later(5.0, print)
            await loop.create_task(nobody())
            timer.cancel()
        return (_CLOCK() - began) / times

    crowd = size + micro.FEW
    found = await interleave(
        {
            "a turn": micro.crowded(clean.acquire, crowd, 100),
            "a turn with a reset that costs nothing": micro.crowded(soiled.acquire, crowd, 100),
            "a task and a timer, made and gone": task_and_timer,
        },
        rounds=rounds,
    )
    for pool in (soiled, clean):
        await pool.close()
    rows = [[name, shown(found.cost_us(name))] for name in found.samples]
    return [Table("A reset that costs nothing", ["what", "µs of the processor"], rows)]


class Bare:
    """The least that hands over in order: a line of futures, which knows nothing of time or cancellation."""

    def __init__(self, places: int) -> None:
        self._free = places
        self._line: deque[asyncio.Future[None]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        future = asyncio.get_running_loop().create_future()
        self._line.append(future)
        await future

    async def __aexit__(self, *_: object) -> None:
        if self._line:
            self._line.popleft().set_result(None)
        else:
            self._free += 1


class _Note:
    """As large as what our queue knows of a waiter, or a lease of itself."""

    __slots__ = ("a", "b", "c", "d", "e", "f", "g")


class Laden(Bare):
    """The same with two objects and three numbers beside each future, touched when it is woken."""

    def __init__(self, places: int) -> None:
        super().__init__(places)
        self._notes: deque[tuple[_Note, asyncio.Future[None]]] = deque()

    async def __aenter__(self) -> None:
        if self._free:
            self._free -= 1
            return
        note, other = _Note(), _Note()
        note.a, note.b, note.c, note.d = other, _CLOCK(), _CLOCK(), 0
        future = asyncio.get_running_loop().create_future()
        self._notes.append((note, future))
        await future
        other.f = note.d

    async def __aexit__(self, *_: object) -> None:
        if self._notes:
            note, future = self._notes.popleft()
            note.d = 1
            note.a.e = _CLOCK() - note.b - note.c
            future.set_result(None)
        else:
            self._free += 1


def _uncollected(measure: Measure) -> Measure:
    """The same while the garbage collector is switched off."""

    async def run() -> Any:
        gc.disable()
        try:
            return await measure()
        finally:
            gc.enable()

    return run


def _grown(found: Rounds, names: Iterable[str]) -> list[list[str]]:
    """For each of `names`, which were measured small and large: both, and how much is added."""

    def more_us(large: float, small: float) -> float:
        return (large - small) * 1e6

    return [
        [
            name,
            *(str(found.spread(f"{name}, {size}").scaled(1e6)) for size in ("small", "large")),
            str(found.each(more_us, f"{name}, large", f"{name}, small")),
            str(found.ratio(f"{name}, large", f"{name}, small")),
        ]
        for name in names
    ]


async def crowds(rounds: int) -> list[Table]:
    """What of a turn and of a cancel in a large crowd is the collector's, and what every future's."""
    pool, taken = millpond_pool(), millpond_pool()
    for each in (pool, taken):
        await each.initialize()
    held = [await taken.lease() for _ in range(micro.NARROW)]
    semaphore, none = asyncio.Semaphore(micro.NARROW), asyncio.Semaphore(0)
    bare, no_place = Bare(micro.NARROW), Bare(0)
    laden, no_place_either = Laden(micro.NARROW), Laden(0)
    places = {
        "millpond": (pool.acquire, taken.acquire),
        micro.SEMAPHORE: (lambda: semaphore, none.acquire),
        "a line of futures": (lambda: bare, no_place.__aenter__),
        "a line of futures and notes": (lambda: laden, no_place_either.__aenter__),
    }
    measures: dict[str, Measure] = {}
    names = []
    for name, (lease, acquire) in places.items():
        for story, small, large in (
            ("come and gone", micro.repeated(_came(lease, micro.FEW), 50), _came(lease, micro.MANY)),
            ("that stay", _stay(lease, micro.FEW, 200), _stay(lease, micro.MANY, 3)),
            (
                "cancelled",
                micro.cancelled(acquire, micro.FEW, 50),
                micro.cancelled(acquire, micro.MANY, 1),
            ),
        ):
            for how, kind in (("", lambda measure: measure), (", without garbage collection", _uncollected)):
                names.append(story_of := f"{name}, {story}{how}")
                measures[f"{story_of}, small"], measures[f"{story_of}, large"] = kind(small), kind(large)
    found = await interleave(measures, rounds=rounds)
    for each in held:
        each.release()
    for each in (pool, taken):
        await each.close()
    head = ["what", "µs, 20 waiters", "µs, 10,000 waiters", "µs more", "grows"]
    return [Table("A turn on ten connections, and a waiter that is cancelled", head, _grown(found, names))]


def _came(lease: Lease, waiters: int) -> micro.Timing:
    return micro.handed_over(lease, waiters + micro.NARROW, 1)


def _stay(lease: Lease, waiters: int, turns: int) -> Measure:
    return micro.crowded(lease, waiters + micro.NARROW, turns)


def used_by(pid: int) -> float:
    """Seconds of the processor that a process has used, as Linux counts them by the nanosecond.

    Raises:
        FileNotFoundError: this is no Linux, or it does not count them.
    """
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) * 1e-9


def of_both(pid: int, operation: Callable[[], Awaitable[Any]], times: int) -> Measure:
    """Seconds of the processor for one operation, the client's and the server's."""

    async def run() -> dict[str, float]:
        mine, theirs = _CLOCK(), used_by(pid)
        for _ in range(times):
            await operation()
        return {"client": (_CLOCK() - mine) / times, "server": (used_by(pid) - theirs) / times}

    return run


def _both_table(title: str, found: Rounds, note: str) -> Table:
    rows = [
        [name, *(str(found.spread(name, side).scaled(1e6)) for side in ("client", "server"))]
        for name in found.samples
    ]
    head = ["what", "µs of the client's processor", "µs of the server's"]
    return Table(title, head, rows, note)


async def statements(rounds: int) -> list[Table]:
    """Resets and statements alone, one after the other on one connection of a private PostgreSQL."""
    import asyncpg
    import psycopg

    with postgresql.server() as server:
        kept = await asyncpg.connect(server.dsn())
        other = await psycopg.AsyncConnection.connect(server.dsn(), autocommit=True)
        try:
            pid = kept.get_server_pid()
            plain = CLEAN_SESSION.replace("DISCARD PLANS;\n", "")
            scripts = {
                "a statement without anything": "SELECT",
                "asyncpg's reset": kept.get_reset_query(),
                "ours": CLEAN_SESSION,
                "ours without DISCARD PLANS": plain,
                "ours, with a look for what PREPARE has left whether it has or not": (
                    f"{CLEAN_SESSION};{DEALLOCATE_PREPARED}"
                ),
            }
            assert plain != CLEAN_SESSION

            def sending(script: str) -> Callable[[], Awaitable[Any]]:
                return lambda: kept.execute(script)

            async def planned_anew() -> None:
                await kept.execute("DISCARD PLANS")
                await kept.fetchval("SELECT 1")

            async def planned() -> None:
                await kept.execute("DISCARD SEQUENCES")
                await kept.fetchval("SELECT 1")

            cleaned = await interleave(
                {name: of_both(pid, sending(script), 500) for name, script in scripts.items()}
                | {
                    "DISCARD SEQUENCES, then `SELECT 1`": of_both(pid, planned, 500),
                    "DISCARD PLANS, then `SELECT 1`": of_both(pid, planned_anew, 500),
                },
                rounds=rounds,
            )
            asked = await interleave(
                {
                    "asyncpg, `SELECT 1`": of_both(pid, lambda: kept.fetchval("SELECT 1"), 500),
                    "psycopg, `SELECT 1`": of_both(
                        other.info.backend_pid, lambda: postgresql.PSYCOPG[postgresql.SELECT](other), 500
                    ),
                },
                rounds=rounds,
            )
        finally:
            await kept.close()
            await other.close()
    theirs, ours, answered = await psycopg_pool(micro.NARROW), millpond_pool(), await _psycopg_answers(rounds)
    await ours.initialize()
    turns = await interleave(
        {
            "millpond": micro.handed_over(ours.acquire, 100, 20),
            "psycopg_pool": micro.handed_over(theirs.lease, 100, 20),
        },
        rounds=rounds,
    )
    await ours.close()
    await theirs.close()
    rows = [[name, str(turns.spread(name).scaled(1e6))] for name in turns.samples]
    return [
        _both_table("A reset alone", cleaned, "Each is one round trip; those with `SELECT 1` are two."),
        _both_table("A statement alone", asked, ""),
        Table("A turn of 100 tasks over stand-ins", ["pool", "µs of the processor"], [*rows, *answered]),
    ]


async def _psycopg_answers(rounds: int) -> list[list[str]]:
    with postgresql.server() as server:
        client = await postgresql.millpond(server.dsn(), reset="rollback", library="psycopg")
        assert client.pool is not None
        found = await interleave({"answers": micro.answers(client.pool)}, rounds=rounds)
        await client.close()
    return [["what our driver says of a real psycopg connection", str(found.spread("answers").scaled(1e6))]]


PARTS: Final[dict[str, Callable[[int], Awaitable[list[Table]]]]] = {
    "lease": short_way,
    "handover": hand_overs,
    "listener": listeners,
    "reset": resets,
    "crowd": crowds,
    "postgresql": statements,
}


async def _measured(parts: list[str], rounds: int) -> None:
    for part in parts:
        for table in await PARTS[part](rounds):
            print(table.markdown(), flush=True)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.ablations", description=__doc__)
    parser.add_argument(
        "parts", nargs="*", metavar="part", help=f"of {', '.join(PARTS)}; all, if none is named"
    )
    parser.add_argument("--rounds", type=int, default=11, help="of each comparison (11)")
    chosen = parser.parse_args()
    if unknown := set(chosen.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    print(f"load when it began: {os.getloadavg()[0]:.1f}\n")
    asyncio.run(_measured(chosen.parts or list(PARTS), chosen.rounds))


if __name__ == "__main__":
    main()
