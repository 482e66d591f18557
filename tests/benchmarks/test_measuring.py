"""The benchmarks run: every measure, once and small, on what is in the standard library and on ours."""

import asyncio
import logging
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from benchmarks import ablations, copies, fairness, hot_path, limits, micro, postgresql
from benchmarks.harness import Rounds
from benchmarks.load import P50, P99, QUANTITIES, RATE, Client, close, opened, under_load
from benchmarks.parts import STAND_INS, Plan, compared, real_leases, statement_targets
from benchmarks.subjects import Subject, millpond, millpond_pool, nobody, semaphore


def barging(size: int) -> Subject:
    """What people write themselves: a queue, and who asks again at once takes back what it has put there."""
    queue: asyncio.Queue[object] = asyncio.Queue()
    for _ in range(size):
        queue.put_nowait(object())

    @asynccontextmanager
    async def lease() -> AsyncIterator[object]:
        conn = await queue.get()
        try:
            yield conn
        finally:
            queue.put_nowait(conn)

    return Subject("a queue", lease, nobody)


def answered_alike() -> Rounds:
    """What a server's part measures, as if every pool were as fast."""
    sample = dict.fromkeys(QUANTITIES, 1.0)
    names = {name for pair in postgresql.PAIRS for name in pair}
    return Rounds({name: [sample] for name in names})


async def test_everything_that_needs_no_server_is_measured(caplog: pytest.LogCaptureFixture) -> None:
    """Every line has a number and a text about its limit, every table its rows, every figure its bars."""
    caplog.set_level(logging.CRITICAL, "millpond")  # what one listener costs is measured, not what one says
    subjects = [await millpond(10), await semaphore(10), barging(10)]

    found = await compared(Plan("asyncio", 1, 1, False, tasks=50, waiters=200), subjects, {})

    of_server = statement_targets(answered_alike(), "asyncio", {})
    assert {target.key for target in [*found.targets, *of_server]} == set(limits.TEXTS)
    assert found.missing == {}
    lacking = {target.measure for target in found.targets if target.found is None}
    assert lacking == {"uncontended ÷ psycopg_pool", "uncontended ÷ asyncpg.Pool without reset"}
    assert len(found.targets) == 18
    assert all(len(row) == len(table.head) for table in found.tables for row in table.rows)
    assert all(len(bars) == 3 for figure in found.figures for bars in figure.series.values())


def breaking(name: str, above: int) -> Subject:
    """A pool that raises once more than so many want a connection of it."""
    whole, wanting = barging(10), 0

    @asynccontextmanager
    async def lease() -> AsyncIterator[object]:
        nonlocal wanting
        wanting += 1
        try:
            if wanting > above:
                raise OSError("too many")
            async with whole.lease() as conn:
                yield conn
        finally:
            wanting -= 1

    async def close() -> None:
        raise OSError("stuck")

    return Subject(name, lease, close)


async def test_a_peer_that_breaks_costs_its_own_lines_only(caplog: pytest.LogCaptureFixture) -> None:
    """Wherever it breaks, the report says it; and nobody else is called the fastest in its place."""
    caplog.set_level(logging.CRITICAL, "millpond")
    subjects = [await millpond(10), await semaphore(10), barging(10)]
    subjects += [breaking("none", 0), breaking("sixty", 60)]

    found = await compared(Plan("asyncio", 1, 1, False, tasks=50, waiters=200), subjects, {})

    assert found.missing == {
        "none, a lease that nobody else wants": "OSError: too many",
        "sixty, loopers at 10x": "OSError: too many",
        "none, its end": "OSError: stuck",
        "sixty, its end": "OSError: stuck",
    }
    gaps = {target.measure: target.note for target in found.targets if "fastest" in target.measure}
    assert gaps == {
        "uncontended ÷ the fastest peer": "none: OSError: too many",
        "the same ÷ the fastest peer in Python": "none: OSError: too many",
    }
    bars = {figure.name: figure.labels for figure in found.figures}
    assert "sixty" in bars["pools"]
    assert bars["turns"] == bars["waits"] == ["millpond", "asyncio.Semaphore", "a queue"]


def test_a_client_that_is_missing_has_its_lines_say_so() -> None:
    """With the reason; the others are measured."""
    found = answered_alike()
    del found.samples[postgresql.ASYNCPG_NONE], found.samples[postgresql.ALCHEMY]
    found.failed[postgresql.ASYNCPG_NONE] = "OSError: gone"

    targets = statement_targets(found, "asyncio", {postgresql.ALCHEMY: "ImportError: sqlalchemy"})

    (bare,) = [target for target in targets if target.found is None]
    assert (bare.key, bare.note) == (limits.NO_RESET, f"{postgresql.ASYNCPG_NONE}: OSError: gone")
    (alchemy,) = [target for target in targets if target.key == limits.ALCHEMY]
    assert alchemy.note.endswith("÷ SQLAlchemy as it is used: not measured")


async def test_those_that_are_close_have_more_rounds_and_are_compared_with_each_other() -> None:
    """Ratios are taken within a round: both sides of each pair have as many."""

    async def done() -> None:
        await asyncio.sleep(0)

    names = dict.fromkeys(name for pair in postgresql.PAIRS for name in pair)
    clients = [Client(name, {postgresql.SELECT: done}, nobody) for name in names]

    found = await postgresql.measure_target(clients, 5, 2)

    counts = {name: len(samples) for name, samples in found.samples.items()}
    assert {name for name, count in counts.items() if count == 6} == postgresql.CLOSE
    assert set(counts.values()) == {6, 2}
    assert all(counts[mine] == counts[theirs] for mine, theirs in postgresql.PAIRS)


async def test_clients_are_opened_one_by_one() -> None:
    """A library that is not there takes nobody else with it, neither do those that do not end."""

    async def absent() -> Client:
        raise ImportError("no such pool")

    async def stuck() -> None:
        raise OSError("stuck")

    async def there() -> Client:
        return Client("there", {}, stuck)

    clients, missing = await opened({"absent": absent, "there": there})

    assert missing == {"absent": "ImportError: no such pool"}
    assert await close(clients) == {"there": "OSError: stuck"}


async def test_a_turn_of_a_fair_pool_is_handed_over() -> None:
    """No task gets its own connection again while others wait; each turn is counted."""
    pool = millpond_pool(2)

    await micro.handed_over(pool.acquire, 10, 4, owners := micro.Owners())()

    assert (owners.turns, owners.own_again) == (40, 0)
    await pool.close()


@pytest.mark.parametrize("turns", [1, 3])
async def test_a_crowd_is_measured_between_its_coming_and_its_going(turns: int) -> None:
    """So many turns as was said, all of them while as many wait as was said."""
    pool = millpond_pool(2)
    waiting = []
    lease = pool.acquire

    class Watched:
        async def __aenter__(self) -> object:
            self.lease = lease()
            conn = await self.lease.__aenter__()
            waiting.append(pool.status().waiting)
            return conn

        async def __aexit__(self, *error: object) -> None:
            await self.lease.__aexit__(None, None, None)

    assert await micro.crowded(Watched, 10, turns)() > 0  # type: ignore[arg-type]
    counted = waiting[10 : 10 * (turns + 1)]
    assert set(counted) <= {6, 7, 8}
    await pool.close()


async def test_a_limit_around_a_lease_is_only_on_getting_it() -> None:
    """Who holds is not hurried, and an error inside reaches the lease."""
    pool = millpond_pool(1)
    lease = micro.limited(pool.acquire)

    async def fail() -> None:
        async with lease():
            assert pool.status().busy == 1
            raise ValueError("mine")

    with pytest.raises(ValueError, match="mine"):
        await fail()

    assert pool.status().busy == 0
    await pool.close()


@pytest.mark.parametrize("what", ablations.LEFT_OUT)
async def test_a_lease_without_one_thing_still_lends(what: str) -> None:
    """What is left out is there to be left out, and nothing else breaks by it."""
    pool = await copies.pool_with(ablations.LEFT_OUT[what])

    async with pool.acquire():
        assert pool.status().busy == 1

    assert pool.status().busy == 0
    await pool.close()


@pytest.mark.parametrize("what", copies.HAND_OVER)
async def test_a_hand_over_without_one_thing_still_hands_over(what: str) -> None:
    """Everybody gets a turn, in the order in which they came."""
    pool = await copies.pool_with(copies.HAND_OVER[what])
    turns: list[int] = []

    async def borrow(number: int) -> None:
        async with pool.acquire():
            turns.append(number)
            await asyncio.sleep(0)

    await asyncio.gather(*(borrow(number) for number in range(30)))

    assert turns == list(range(30))
    await pool.close()


@pytest.mark.parametrize("what", copies.LISTENER)
async def test_a_lease_that_is_heard_of_without_one_thing_still_lends(what: str) -> None:
    """Whatever the listener is not told."""
    pool = await copies.pool_with(copies.LISTENER[what], listens=True)

    async with pool.acquire():
        assert pool.status().busy == 1

    assert pool.status().busy == 0
    await pool.close()


def test_what_is_no_longer_there_cannot_be_left_out() -> None:
    """A kernel that has changed must not be measured twice as it is."""
    with pytest.raises(ValueError, match="has 0 times"):
        copies.copies((("lease", "no such line", ""),))


async def test_what_a_driver_says_is_measured_beside_the_lease() -> None:
    """Stand-ins say it for nothing; who reads the ratios can see what real connections take."""
    pool = millpond_pool(2)
    client = Client("ours", {}, pool.close, pool.acquire, pool)

    (table,) = (await real_leases("Nothing", [client], Plan("asyncio", 1, 1, False))).tables

    assert [row[0] for row in table.rows] == ["nothing", STAND_INS, "ours"]
    assert [bool(row[3]) for row in table.rows] == [False, True, True]
    await pool.close()


async def test_a_connection_that_is_taken_back_is_noticed() -> None:
    """One task alone always gets its own."""
    await micro.handed_over(barging(1).lease, 1, 5, owners := micro.Owners())()

    assert owners.share == 0.8


@pytest.mark.parametrize(("kind", "is_fair"), [(semaphore, True), (barging, False)], ids=["fair", "barging"])
async def test_starving_is_seen(kind: object, is_fair: bool) -> None:
    """The measure of fairness tells a pool that starves from one that does not."""
    subject = barging(2) if kind is barging else await semaphore(2)

    sample = await fairness.loopers(subject, 3.0, turns=20, connections=2)()

    assert (sample[fairness.UNFAIR] <= 1.2) is is_fair
    assert sample[fairness.LEAST] <= 20 <= sample[fairness.MOST]


async def test_an_acquire_that_does_not_time_out_spoils_the_measurement() -> None:
    """A cost of time-outs must not be the cost of something else."""

    async def served(_until: float) -> None:
        return None

    with pytest.raises(RuntimeError, match="served"):
        await micro.expired(served, 3, 1)()


async def test_a_load_does_exactly_what_was_asked_for() -> None:
    """So many operations, shared among the tasks, each timed."""
    done = 0

    async def operation() -> None:
        nonlocal done
        done += 1
        await asyncio.sleep(0)

    sample = await under_load(operation, 7, 100)()

    assert done == 100
    assert sample[RATE] > 0
    assert 0 < sample[P50] <= sample[P99]


def test_instructions_of_a_lease_are_found_by_line() -> None:
    """Whoever tunes the hot path sees where its instructions are."""
    found = hot_path.lines_of(hot_path.lease, 5, 25)

    by_file = {Path(file).name for (file, _), count in found.items() if count >= 1}
    assert by_file == {"pool.py", "lease.py"} or sys.version_info >= (3, 12)
