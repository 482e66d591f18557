"""The parts of the report: each measures one thing under one loop, and says what it found."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final

from benchmarks import backends, fairness, footprint, limits, micro, postgresql
from benchmarks import bad_days as days
from benchmarks.harness import Rounds, Spread, interleave, reason, shown
from benchmarks.load import P50, P99, P999, RATE, Client, close, opened
from benchmarks.results import Figure, Result, Sign, Table, Target
from benchmarks.subjects import COMPILED, Nothing, Subject, cold_pools, everyone

OURS: Final = {"millpond", micro.SEMAPHORE}
CROWDS: Final = (10, 100, 1000)
STAND_INS: Final = "millpond, over stand-ins"
_ANSWERS: Final = "{}: what its driver says"
Pairs = tuple[tuple[str, str], ...]
"""Ours, and whom it is compared with."""


@dataclass(frozen=True, slots=True)
class Plan:
    """How much to measure.

    Attributes:
        loop: the event loop's name, for the lines of the table.
        rounds: of each comparison of pools over connections that cost nothing.
        server_rounds: of each comparison on a real server.
        is_whole: everything, or what the table of targets needs.
        tasks: how many hand connections over to each other.
        waiters: the larger number of waiters.
    """

    loop: str
    rounds: int
    server_rounds: int
    is_whole: bool
    tasks: int = 1000
    waiters: int = micro.MANY

    @property
    def pool_rounds(self) -> int:
        """Of hand-overs and of what grows, where a round takes seconds."""
        return -(-self.rounds // (5 if self.is_whole else 2))

    @property
    def other_rounds(self) -> int:
        """Of statements that are in no line of the table of targets."""
        return max(2, self.server_rounds // 3)

    @property
    def day_rounds(self) -> int:
        """Of bad days on a server, where a round takes a minute and the loop matters little."""
        return 1 if self.loop == "uvloop" else max(1, self.server_rounds // 4)


async def pools(plan: Plan) -> Result:
    """Over connections that cost nothing: leases, hand-overs, growth, fairness, footprint."""
    return await compared(plan, *await everyone(10))


async def compared(plan: Plan, subjects: list[Subject], missing: dict[str, str]) -> Result:
    """The same with these subjects: ours, a semaphore, and peers; `missing` says who could not be made.

    A peer that fails in one comparison is left out of those after it.
    """
    result = Result(missing=dict(missing))
    fewer = plan.pool_rounds
    alone = await micro.leases(subjects, 3 * plan.rounds)
    result.lack(alone.failed, "a lease that nobody else wants")
    lending = [one for one in subjects if one.name not in alone.failed]
    living, once, own_again = await micro.handovers(lending, fewer, tasks=plan.tasks)
    result.lack(living.failed, "tasks that live on")
    result.lack(once.failed, "tasks of one lease each")
    handing = [one for one in lending if one.name not in living.failed | once.failed]
    grown = await micro.growth(fewer, many=plan.waiters)
    turns = await fairness.turns_and_waits(handing, -(-plan.rounds // 7), turns=50)
    for overload, found in turns.items():
        result.lack(found.failed, f"loopers at {overload:g}x")
    looping = [one for one in handing if all(one.name in found.samples for found in turns.values())]
    # Those that failed with a limit around them are there without one.
    unhanded = {name: why for name, why in (living.failed | once.failed).items() if name in alone.samples}
    result.targets = [
        *_lease_targets(alone, lending, missing | alone.failed),
        *_handover_targets(living, once, handing, missing | alone.failed | unhanded),
        *_growth_targets(grown),
        *_fairness_targets(turns),
        *await _footprint_targets(plan),
        _listener_target(alone),
        await _import_target(fewer),
    ]
    result.tables = [
        _leases_table(alone, lending),
        _handovers_table(living, once, own_again),
        _growth_table(grown),
        _fairness_table(turns),
    ]
    result.figures = [
        _cost_figure(alone, living, handing),
        _turns_figure(turns, looping),
        _waits_figure(turns, looping),
    ]
    result.lack(await _closed(subjects), "its end")
    return result


async def _closed(subjects: list[Subject]) -> dict[str, str]:
    """End all of them; answers who could not be ended, and why."""
    failed = {}
    for one in subjects:
        try:
            await asyncio.wait_for(one.close(), 10)
        except Exception as error:
            failed[one.name] = reason(error)
    return failed


def _fastest(found: Rounds, peers: list[str], absent: Mapping[str, str]) -> tuple[str | None, str]:
    """Who of `peers` costs least; or nobody, and why: whoever is `absent` might have been the one."""
    if absent:
        return None, "; ".join(f"{name}: {why}" for name, why in absent.items())
    return (min(peers, key=found.cost_us), "") if peers else (None, "there was no peer")


def _but_compiled(absent: Mapping[str, str]) -> dict[str, str]:
    return {name: why for name, why in absent.items() if name not in COMPILED}


def _lease_targets(alone: Rounds, subjects: list[Subject], absent: Mapping[str, str]) -> list[Target]:
    peers = [one for one in subjects if one.name not in OURS]
    fastest, gap = _fastest(alone, [one.name for one in peers], absent)
    in_python = [one.name for one in peers if not one.is_compiled]
    pure, _ = _fastest(alone, in_python, _but_compiled(absent))
    among_pure = f"÷ the fastest in Python ({pure}): {alone.ratio('millpond', pure)}" if pure else ""
    found = [
        Target(
            "uncontended lease ÷ `async with` over nothing",
            "≤",
            3.0,
            alone.ratio("millpond", "nothing"),
            key=limits.LEASE,
        ),
        Target(
            "explicit acquire + release ÷ `async with`",
            "≤",
            1.4,
            alone.ratio(micro.EXPLICIT, "millpond"),
            key=limits.EXPLICIT,
        ),
        Target(
            f"uncontended ÷ the fastest peer{(fastest and f' ({fastest})') or ''}",
            "<",
            1.0,
            alone.ratio("millpond", fastest) if fastest else None,
            note="; ".join(filter(None, (gap, among_pure))),
            key=limits.FASTEST,
        ),
    ]
    for name, limit, key in (
        ("psycopg_pool", 0.2, limits.PSYCOPG_ALONE),
        ("asyncpg.Pool without reset", 0.1, limits.ASYNCPG_ALONE),
    ):
        ratio = alone.ratio("millpond", name) if name in alone.samples else None
        why = "" if ratio else absent.get(name, "")
        found.append(Target(f"uncontended ÷ {name}", "≤", limit, ratio, note=why, key=key))
    return found


def _handover_targets(
    living: Rounds, once: Rounds, subjects: list[Subject], absent: Mapping[str, str]
) -> list[Target]:
    pure = [one.name for one in subjects if not one.is_compiled and one.name not in OURS]
    fastest, note = _fastest(living, pure, _but_compiled(absent))
    limited = micro.LIMITED.format(fastest)
    if fastest:
        note = f"tasks of one lease each: {once.ratio('millpond', fastest)}"
    if limited in living.samples:
        note += f"; under a time-out of 10 s like ours: {living.ratio('millpond', limited)}"
    return [
        Target(
            "hand-over, 1,000 tasks, 10 connections ÷ asyncio.Semaphore",
            "≤",
            1.5,
            living.ratio("millpond", micro.SEMAPHORE),
            note=f"without our time-out: {living.ratio(micro.UNLIMITED, micro.SEMAPHORE)}; tasks that ask "
            f"again at once: {living.ratio(*micro.BOTH_AT_ONCE)}; tasks of one lease "
            f"each: {once.ratio('millpond', micro.SEMAPHORE)}",
            key=limits.HAND_OVER,
        ),
        Target(
            f"the same ÷ the fastest peer in Python{(fastest and f' ({fastest})') or ''}",
            "≤",
            0.8,
            living.ratio("millpond", fastest) if fastest else None,
            note=note,
            key=limits.HAND_OVER_PEER,
        ),
    ]


def _growth_targets(grown: micro.Grown) -> list[Target]:
    keys = {
        micro.WAITERS: limits.MORE_WAITERS,
        micro.EXPIRED: limits.MORE_EXPIRED,
        micro.CANCELLED: limits.MORE_CANCELLED,
        micro.CONNECTIONS: limits.MORE_CONNECTIONS,
    }
    coming = f"; of tasks that come, have one turn and end: {grown.ratio(micro.COMING)}"
    return [
        Target(
            f"growth of {story}, as a ratio to a semaphore",
            "≤",
            1.2,
            grown.ratio(story),
            note=f"our own cost grows {grown.own(story)}, a semaphore's {grown.of_semaphore(story)}"
            f"{coming if story == micro.WAITERS else ''}",
            key=key,
        )
        for story, key in keys.items()
    ]


def _fairness_targets(turns: dict[float, Rounds]) -> list[Target]:
    return [
        Target(
            f"loopers at {overload:g}x, most turns ÷ least",
            "≤",
            1.2,
            found.spread("millpond", fairness.UNFAIR),
            key=limits.LOOPERS,
        )
        for overload, found in turns.items()
    ]


async def _footprint_targets(plan: Plan) -> list[Target]:
    waiter = await footprint.waiter_bytes(min(2000, plan.waiters))
    idle = await footprint.idle_bytes(100, 100 + min(1000, plan.waiters))
    return [
        Target(
            "a waiter beyond its task",
            "<",
            1024,
            Spread(waiter, waiter, waiter),
            "bytes",
            key=limits.WAITER_BYTES,
        ),
        Target(
            "an idle connection beyond the driver's object",
            "<",
            1024,
            Spread(idle, idle, idle),
            "bytes",
            key=limits.IDLE_BYTES,
        ),
    ]


async def _import_target(rounds: int) -> Target:
    compiled = await footprint.imports(rounds)
    from_source = await footprint.imports(rounds, is_compiled=False)
    ratio = compiled.ratio(footprint.OURS, footprint.STANDARD)
    return Target(
        "`import millpond` beyond `import asyncio`",
        "≤",
        30.0,
        compiled.spread(footprint.OURS).scaled(1e3),
        "ms",
        note=f"÷ `import {footprint.STANDARD}`: {ratio}; without bytecode, every module compiled anew: "
        f"{from_source.spread(footprint.OURS).scaled(1e3)} ms",
        key=limits.IMPORT,
    )


def _rounds(found: Rounds) -> str:
    """How many rounds a table is of: they are fewer where one takes long, more where a verdict is close."""
    counts = sorted({len(each) for each in found.samples.values()}, reverse=True)
    return f"Rounds: {' and '.join(map(str, counts or [0]))}."


def _listener_target(alone: Rounds) -> Target:
    """Either limit is enough; the line shows the one that is kept, and the microseconds if neither is."""
    more_us = alone.each(lambda heard, plain: (heard - plain) * 1e6, micro.LISTENER, "millpond")
    more = alone.each(lambda heard, plain: heard / plain - 1, micro.LISTENER, "millpond")
    if more_us.median > 3.0 and more.median <= 1.0:
        name, note = "one listener, in terms of the lease", f"{more_us} µs"
        return Target(name, "≤", 1.0, more, note=note, key=limits.LISTENER)
    note = f"{more} of the lease itself"
    return Target("one listener, a lease", "≤", 3.0, more_us, "µs", note=note, key=limits.LISTENER)


def _leases_table(alone: Rounds, subjects: list[Subject]) -> Table:
    rows = [
        [
            name,
            shown(alone.cost_us(name)),
            str(alone.ratio(name, "nothing")),
            str(alone.ratio(name, "millpond")),
        ]
        for name in ("nothing", *(one.name for one in subjects), *micro.OWN_WAYS)
    ]
    return Table(
        "A lease that nobody else wants",
        ["pool", "µs of the processor", "÷ `async with` over nothing", "÷ millpond"],
        rows,
        f"The last {len(micro.OWN_WAYS)} are millpond's. Its counters and histograms are always on. "
        f"{_rounds(alone)}",
    )


def _handovers_table(living: Rounds, once: Rounds, own_again: dict[str, float]) -> Table:
    restless = {micro.AT_ONCE.format(name) for name in micro.RESTLESS}
    base = {True: micro.BOTH_AT_ONCE[1], False: micro.SEMAPHORE}
    rows = [
        [
            name,
            shown(living.cost_us(name)),
            str(living.ratio(name, base[name in restless])),
            f"{own_again[name]:.0%}",
            shown(once.cost_us(name)) if name in once.samples else "",
            str(once.ratio(name, micro.SEMAPHORE)) if name in once.samples else "",
        ]
        for name in living.samples
    ]
    return Table(
        "1,000 tasks on 10 connections",
        [
            "pool",
            "µs of the processor a turn, tasks that live on",
            "÷ Semaphore",
            "own connection again",
            "µs a task of one lease",
            "÷ Semaphore",
        ],
        rows,
        "`own connection again` is the share of turns in which a task got the connection that it had just "
        "given back: nothing was handed over in these. Who asks again at once has no step between two turns, "
        f"and is beside a semaphore that has none either. {_rounds(living)}",
    )


def _growth_table(grown: micro.Grown) -> Table:
    rows = []
    for story in micro.STORIES:
        small, large = grown.cost_us(story)
        rows.append(
            [
                story,
                shown(small),
                shown(large),
                str(grown.own(story)),
                str(grown.of_semaphore(story)),
                str(grown.ratio(story)),
            ]
        )
    return Table(
        "What grows",
        ["what", "µs of the processor, few", "many", "ours grows", "Semaphore's grows", "ratio grows"],
        rows,
        "Twenty waiters of ten connections are thirty tasks. Turns are counted while the number of waiters "
        "stays as it is; time-outs from where all wait to where all have given up.",
    )


def _fairness_table(turns: dict[float, Rounds]) -> Table:
    rows = []
    for overload, found in turns.items():
        for name in found.samples:
            least, most = (found.spread(name, what).median for what in (fairness.LEAST, fairness.MOST))
            waits = [shown(found.spread(name, what).median) for what in fairness.WAITS]
            rows.append([f"{overload:g}x", name, f"{least:.0f} / {most:.0f}", *waits])
    return Table(
        "Loopers: tasks that borrow again and again, more than there are connections",
        ["overload", "pool", "least / most turns", *(f"{what}, µs" for what in fairness.WAITS)],
        rows,
        "Waits are from asking to having. A pool that starves most tasks has a splendid median. "
        f"{_rounds(next(iter(turns.values())))}",
    )


def _cost_figure(alone: Rounds, living: Rounds, subjects: list[Subject]) -> Figure:
    names = sorted((one.name for one in subjects), key=alone.cost_us)
    return Figure(
        "pools",
        "What a pool costs (connections that cost nothing)",
        "bars",
        names,
        {
            "a lease that nobody else wants": [alone.cost_us(name) for name in names],
            "a turn of 1,000 tasks on 10 connections": [living.cost_us(name) for name in names],
        },
        "µs (log scale), shorter is better",
        is_log=True,
    )


def _bars_by_overload(
    turns: dict[float, Rounds], subjects: list[Subject], what: str
) -> dict[str, list[float]]:
    return {
        f"{overload:g}x": [found.spread(one.name, what).median for one in subjects]
        for overload, found in turns.items()
    }


def _turns_figure(turns: dict[float, Rounds], subjects: list[Subject]) -> Figure:
    return Figure(
        "turns",
        "Most turns ÷ least turns of looping tasks, by overload",
        "bars",
        [one.name for one in subjects],
        _bars_by_overload(turns, subjects, fairness.UNFAIR),
        "most ÷ least (log scale), 1 is fair",
        is_log=True,
    )


def _waits_figure(turns: dict[float, Rounds], subjects: list[Subject]) -> Figure:
    return Figure(
        "waits",
        "Longest of a thousand waits (p99.9) of looping tasks, by overload",
        "bars",
        [one.name for one in subjects],
        _bars_by_overload(turns, subjects, "p99.9"),
        "µs (log scale), shorter is better",
        is_log=True,
    )


async def on_postgresql(plan: Plan) -> Result:
    """Statements on a private PostgreSQL, through every pool."""
    with postgresql.server() as server:
        clients, missing = await opened(postgresql.clients(server.dsn()))
        try:
            result = await _statements(plan, clients, missing)
        finally:
            unclosed = await close(clients)
    result.lack(unclosed, "its end")
    return result


async def _statements(plan: Plan, clients: list[Client], missing: dict[str, str]) -> Result:
    result = Result(missing=dict(missing))
    workloads = postgresql.WORKLOADS if plan.is_whole else (postgresql.SELECT,)
    crowds = CROWDS if plan.is_whole else (100,)
    rates: dict[str, list[float]] = {}
    tails: dict[str, list[float]] = {}
    labels = []
    for workload in workloads:
        for tasks in crowds:
            is_target = workload == postgresql.SELECT and tasks == 100
            if is_target:
                found = await postgresql.measure_target(clients, tasks, plan.server_rounds)
            else:
                found = await postgresql.measure(clients, workload, tasks, plan.other_rounds)
            result.lack(found.failed, f"PostgreSQL, {workload}, {tasks:,} tasks")
            result.tables.append(
                _statements_table(found, f"PostgreSQL, {workload}, {tasks:,} tasks", postgresql.PAIRS)
            )
            labels.append(f"{workload}, {tasks:,} tasks")
            for one in clients:
                rates.setdefault(one.name, []).append(_median(found, one.name, RATE))
                tails.setdefault(one.name, []).append(_median(found, one.name, P99))
            if is_target:
                result.targets = statement_targets(found, plan.loop, missing)
    result.add(await real_leases("PostgreSQL", clients, plan))
    if plan.is_whole:
        result.figures = [
            Figure("postgresql-rate", "PostgreSQL, 10 connections: operations a second",
                   "facets", labels, rates, "operations a second, longer is better"),
            Figure("postgresql-p99", "PostgreSQL, 10 connections: p99",
                   "facets", labels, tails, "p99, ms (log scale), shorter is better", is_log=True),
        ]  # fmt: skip
    return result


def _median(found: Rounds, name: str, what: str) -> float:
    """For a plot: nothing where a pool has failed."""
    return found.spread(name, what).median if name in found.samples else 0.0


def _statements_table(found: Rounds, title: str, pairs: Pairs) -> Table:
    rows = []
    for name in found.samples:
        against = [
            str(found.ratio(mine, theirs, RATE))
            for mine, theirs in pairs
            if theirs == name and mine in found.samples
        ]
        quantities = [str(found.spread(name, what)) for what in (RATE, P50, P99, P999)]
        rows.append([name, *quantities, *(against or [""])])
    return Table(
        title,
        ["pool", "operations a second", "p50, ms", "p99, ms", "p99.9, ms", "millpond's rate ÷ this one's"],
        rows,
        f"Latency is from asking for a connection to having given it back. {_rounds(found)}",
    )


def statement_targets(found: Rounds, loop: str, missing: Mapping[str, str]) -> list[Target]:
    """The lines of the table that `SELECT 1` by 100 tasks gives; `missing` says who could not be made."""
    pg = postgresql
    full, none, rollback = (pg.ours("asyncpg", level) for level in ("full", "none", "rollback"))
    psycopg = pg.ours("psycopg", "rollback")
    absent = {**missing, **found.failed}

    def ratio(mine: str, theirs: str, what: str = RATE) -> Spread | None:
        there = mine in found.samples and theirs in found.samples
        return found.ratio(mine, theirs, what) if there else None

    least = 0.9 if loop == "uvloop" else 1.0
    same, own, bare = pg.ASYNCPG_SAME, pg.ASYNCPG_FULL, pg.ASYNCPG_NONE
    less = "ours also undoes roles, temporary tables and SQL's PREPARE, which takes the server longer"
    pool = "÷ asyncpg.Pool"
    alchemy = "; ".join(
        f"{name}: {ratio(rollback, theirs) or 'not measured'}"
        for name, theirs in (
            ("÷ its pool alone", pg.ALCHEMY_POOL),
            ("÷ SQLAlchemy as it is used", pg.ALCHEMY),
        )
    )
    lines: list[tuple[str, str, Sign, float, tuple[str, str, str], str]] = [
        (limits.SAME_RESET, f"throughput {pool}, the same full reset", "≥", least, (full, same, RATE), ""),
        (limits.SAME_RESET_P99, f"p99 {pool}, the same full reset", "≤", 0.5, (full, same, P99), ""),
        (limits.OWN_RESET, f"throughput {pool}, each its own reset", "≥", least, (full, own, RATE), less),
        (limits.OWN_RESET_P99, f"p99 {pool}, each its own reset", "≤", 0.5, (full, own, P99), less),
        (limits.NO_RESET, f"throughput {pool}, both without reset", "≥", 1.4, (none, bare, RATE), ""),
        (
            limits.PSYCOPG,
            "throughput ÷ psycopg_pool, both on psycopg",
            "≥",
            1.5,
            (psycopg, pg.PSYCOPG_POOL, RATE),
            "both roll back what is open",
        ),
        (
            limits.ALCHEMY,
            "throughput ÷ SQLAlchemy's pool and AsyncConnection, asyncpg's own calls inside",
            "≥",
            1.5,
            (rollback, pg.ALCHEMY_CONNECTION, RATE),
            alchemy,
        ),
    ]
    targets = []
    for key, measure, sign, limit, (mine, theirs, what), note in lines:
        reasons = [f"{name}: {absent[name]}" for name in (mine, theirs) if name in absent]
        measure = f"PostgreSQL `SELECT 1`, 100 tasks, {loop}: {measure}"
        note = "; ".join(filter(None, (*reasons, note)))
        targets.append(Target(measure, sign, limit, ratio(mine, theirs, what), note=note, key=key))
    return targets


_BACKENDS: Final[tuple[tuple[str, Any, Any, Pairs], ...]] = (
    ("Redis", backends.redis_server, backends.redis_clients, backends.REDIS_PAIRS),
    ("MariaDB", backends.mariadb_server, backends.mariadb_clients, backends.MARIADB_PAIRS),
    ("RabbitMQ", backends.rabbitmq_server, backends.rabbitmq_clients, backends.RABBITMQ_PAIRS),
)


async def on_backends(plan: Plan) -> Result:
    """Redis, MariaDB and RabbitMQ, each through our pool and its library's own."""
    result = Result()
    for title, server, connect, pairs in _BACKENDS:
        with server() as dsn:
            clients, missing = await opened(connect(dsn))
            result.missing |= missing
            try:
                for workload in dict.fromkeys(each for one in clients for each in one.operations):
                    labels = []
                    bars: dict[str, list[float]] = {one.name: [] for one in clients}
                    for tasks in CROWDS:
                        found = await postgresql.measure(clients, workload, tasks, plan.other_rounds)
                        head = f"{title}, {workload}, {tasks:,} tasks"
                        result.lack(found.failed, head)
                        result.tables.append(_statements_table(found, head, pairs))
                        labels.append(f"{workload}, {tasks:,} tasks")
                        for one in clients:
                            bars[one.name].append(_median(found, one.name, RATE))
                    name = f"{title.lower()}-rate"
                    what = f"{title}, 10 connections: operations a second"
                    unit = "operations a second, longer is better"
                    result.figures.append(Figure(name, what, "facets", labels, bars, unit))
                result.add(await real_leases(title, clients, plan))
            finally:
                unclosed = await close(clients)
            result.lack(unclosed, "its end")
    return result


async def real_leases(title: str, clients: list[Client], plan: Plan) -> Result:
    """What a lease costs over real connections, and what of ours is the driver's: how far stand-ins tell."""
    leases = {one.name: one.lease for one in clients if one.lease is not None}
    stand_ins = micro.millpond_pool()
    await stand_ins.initialize()
    base = {"nothing": micro.uncontended(Nothing), STAND_INS: micro.uncontended(stand_ins.acquire)}
    measures = base | {name: micro.uncontended(lease) for name, lease in leases.items()}
    pools = {one.name: one.pool for one in clients if one.pool is not None} | {STAND_INS: stand_ins}
    measures |= {_ANSWERS.format(name): micro.answers(pool) for name, pool in pools.items()}
    found = await interleave(measures, rounds=plan.rounds)
    await stand_ins.close()
    rows = []
    for name in ("nothing", STAND_INS, *(one.name for one in clients)):
        answers = _ANSWERS.format(name)
        if name in found.samples or answers in found.samples:
            lease = [str(found.ratio(name, "nothing"))] if name in found.samples else [""]
            cost_us = [shown(found.cost_us(one)) if one in found.samples else "" for one in (name, answers)]
            rows.append([name, *cost_us[:1], *lease, *cost_us[1:]])
    head = f"A lease with nothing in it, over real connections: {title}"
    table = Table(
        head,
        ["pool", "µs of the processor", "÷ `async with` over nothing", "of it: what our driver says, µs"],
        rows,
        "Nothing is sent, by no pool; those that send something at each lease (a full reset) have no time of "
        "a lease here. What ours costs more than over stand-ins is what its driver looks at before and "
        f"after each lease: `is_closed` and `after_lease`. {_rounds(found)}",
    )
    result = Result(tables=[table])
    result.lack(found.failed, head)
    return result


async def bad_days(plan: Plan) -> Result:
    """A cold burst, a restart under load, a connection that hangs."""
    logging.disable(logging.CRITICAL)  # every pool has much to say of this, and it is expected
    result = Result()
    moments: dict[str, list[float]] = {name: [] for name in cold_pools()}
    burst = await interleave(
        {name: days.cold_burst(cold, moments[name]) for name, cold in cold_pools().items()},
        rounds=plan.other_rounds,
        limit_s=20.0,
    )
    curves: dict[str, list[tuple[float, float]]] = {name: [] for name in days.PATIENTS}
    with postgresql.server() as server:
        restarts = await interleave(
            {name: days.restart(make, server, curves[name]) for name, make in days.PATIENTS.items()},
            rounds=plan.day_rounds,
            limit_s=60.0,
            is_cold=False,
        )
        hanging = await interleave(
            {name: days.hanging(make, server) for name, make in days.PATIENTS.items()},
            rounds=plan.day_rounds,
            limit_s=60.0,
            is_cold=False,
        )
    for where, found in (("cold burst", burst), ("restart", restarts), ("a hanging connection", hanging)):
        result.lack(found.failed, where)
    result.tables = [
        _quantities(
            "Cold burst: 500 acquires at once, connects of 20 ms, leases of 1 ms, 10 connections",
            burst,
            {days.FIRST: "ms", days.MIDDLE: "ms", days.LAST: "ms", days.CONNECTS: ""},
            "When the first, the median and the last were served. Nobody could be done before 70 ms.",
        ),
        _quantities(
            "PostgreSQL restarts under 50 tasks",
            restarts,
            {days.GOOD: "ms", days.FULL: "ms", days.CONNECTS: "", days.ERRORS: ""},
            "From when the server serves again to the first good answer and to nine tenths of the rate "
            "before (6000: not within six seconds); connects and errors from the stop on. Who passes on "
            "at once what goes wrong has many errors and an early answer: its tasks try again every 10 ms.",
        ),
        _quantities(
            "One of ten connections to PostgreSQL hangs, 50 tasks, half a second for each question",
            hanging,
            {days.SHARE: "", days.ERRORS: "", days.LONGEST: "ms", days.CAME_BACK: ""},
            "Over the three seconds after its process was stopped. `all came back` is 1 when every task had "
            "its connection, or an error, two seconds after its time-out, and the pool could be closed; who "
            "waits in the release of a connection that says nothing does not come back.",
        ),
    ]
    result.figures = [
        Figure("cold-burst", "500 acquires at once, connects of 20 ms, 10 connections", "lines",
               ["ms since they came", "served"],
               {name: _steps(moments[name]) for name in burst.samples}),
        Figure("restart", "PostgreSQL restarts under 50 tasks (the last round)", "lines",
               ["seconds since it serves again", "answers a second"],
               {name: [list(point) for point in curves[name]] for name in restarts.samples},
               marks={"serves again": 0.0}),
    ]  # fmt: skip
    return result


def _steps(moments: list[float]) -> list[list[float]]:
    """How many had been served when, thinned out to what a plot can show."""
    return [[moments[place] * 1e3, place + 1] for place in range(0, len(moments), 10)]


def _quantities(title: str, found: Rounds, units: dict[str, str], note: str) -> Table:
    head = ["pool", *(f"{what}, {unit}" if unit else what for what, unit in units.items())]
    rows = [[name, *(str(found.spread(name, what)) for what in units)] for name in found.samples]
    return Table(title, head, rows, f"{note} {_rounds(found)}")


PARTS: Final[dict[str, Callable[[Plan], Awaitable[Result]]]] = {
    "pools": pools,
    "postgresql": on_postgresql,
    "backends": on_backends,
    "bad-days": bad_days,
}
