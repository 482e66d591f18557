"""Build the prototypes, measure them beside the pool as it is, print the tables."""

from __future__ import annotations

import argparse
import asyncio
import sys
import tempfile
from collections.abc import Awaitable
from pathlib import Path
from typing import Any, Final

from benchmarks import micro, report
from benchmarks.harness import Rounds, interleave, reason, shown
from benchmarks.prototypes.build import Workshop, c_extension
from benchmarks.prototypes.graft import grafted, place_type, prepared
from benchmarks.results import Result, Table
from benchmarks.subjects import Nothing, Subject, asyncmy_pool, millpond, semaphore
from tests.pages import paste

MARK: Final = "make bench-compiled"
NOTHING: Final = "`async with` over nothing"
OURS: Final = "millpond"
PEER: Final = "asyncmy.Pool"
BY_HAND: Final = "by hand in C"
ANSWERED: Final = "by hand in C, and the driver's two answers in C"
TASKS: Final = 1000


async def subjects(workshop: Workshop) -> tuple[dict[str, Subject], Any]:
    """Everything that is compared, open, and the C extension."""
    extension = prepared(c_extension(workshop.place))
    place = place_type(extension.Slot)
    written: dict[str, Any] = {
        "the prototype's Python, not compiled": workshop.interpreted(),
        "the same through Cython": workshop.cython(is_declared=False),
        "the same through Cython, fields declared": workshop.cython(is_declared=True),
        "the same through mypyc": workshop.mypyc(),
    }
    answers = (extension.never_closed, extension.always_keep)
    opening: list[Awaitable[Subject]] = [millpond(10), asyncmy_pool(10)]
    opening += [grafted(name, module, place_type(module.Place)) for name, module in written.items()]
    opening += [grafted(BY_HAND, extension, place), grafted(ANSWERED, extension, place, answers)]
    found = [await each for each in opening]
    return {one.name: one for one in found}, extension


def leases_table(alone: Rounds, name: str) -> Table:
    """What a lease costs that nobody else wants."""
    rows = []
    for each in alone.samples:
        ratios = [alone.ratio(each, base) for base in (NOTHING, OURS, PEER)]
        rows.append([each, shown(alone.cost_us(each)), *(str(ratio) for ratio in ratios)])
    head = ["a lease that nobody else wants", "µs of the processor", "÷ nothing", f"÷ {OURS}", f"÷ {PEER}"]
    return Table(name, head, rows)


def handover_table(living: Rounds) -> Table:
    """What a hand-over costs."""
    rows = [
        [name, shown(living.cost_us(name)), str(living.ratio(name, micro.SEMAPHORE))]
        for name in living.samples
    ]
    return Table(
        f"Hand-over, {TASKS:,} tasks, 10 connections",
        ["a turn", "µs of the processor", "÷ asyncio.Semaphore"],
        rows,
    )


async def measured(place: Path, rounds: int) -> tuple[Result, str]:
    """Build and measure; answers the tables and the names of the compilers.

    Raises:
        RuntimeError: a pool does not know of every lease that it has given.
    """
    workshop = Workshop(place)
    pools, extension = await subjects(workshop)
    leases = {NOTHING: Nothing, f"{NOTHING}, in C": extension.Nothing}
    leases |= {name: one.lease for name, one in pools.items()}
    measures = {name: micro.uncontended(lease) for name, lease in leases.items()}
    alone = await interleave(measures, rounds=rounds)
    contended = [await semaphore(10), pools[OURS], pools[BY_HAND]]
    living = await interleave(
        {one.name: micro.handed_over(one.lease, TASKS, 5) for one in contended},
        rounds=-(-rounds // 2),
    )
    for name, one in pools.items():
        if name != PEER:
            prove(name, one)
        await one.close()
    python = ".".join(map(str, sys.version_info[:2]))
    result = Result(missing=alone.failed | living.failed)
    result.tables = [leases_table(alone, f"CPython {python}"), handover_table(living)]
    return result, workshop.versions()


def prove(name: str, one: Subject) -> None:
    """See that a pool has counted what it lent, and has everything back."""
    pool = one.close.__self__  # type: ignore[attr-defined]
    stats, status = pool.stats(), pool.status()
    if not (stats.served == stats.hold_seconds.count > 0 and status.idle == 10 and status.leases == 0):
        raise RuntimeError(f"{name}: the books do not balance: {stats}")


def main() -> int:
    """Measure under this interpreter; show this run and those of others that were kept."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.prototypes", description=__doc__)
    parser.add_argument("--rounds", type=report.rounds, default=21, help="of the comparison of leases (21)")
    parser.add_argument("--page", type=Path, help="put the tables into this page, too")
    chosen = parser.parse_args()
    try:
        report.check(chosen.page, MARK)
    except (OSError, ValueError) as error:
        parser.error(reason(error))
    began = report.Began.now()
    with tempfile.TemporaryDirectory() as place:
        found, compilers = asyncio.run(measured(Path(place), chosen.rounds))
    about = report.machine(" ".join(["python -m benchmarks.prototypes", *sys.argv[1:]]), began)
    about |= {"compilers": compilers, "peer": f"asyncmy {report.versions()['asyncmy']}"}
    python = ".".join(map(str, sys.version_info[:2]))
    report.Run(about, python, {"asyncio": found}).save(report.PLACE / f"compiled-{python}.json")
    runs, commit = report.kept("compiled"), report.sources()
    text = ""
    for run in runs:
        first, *others = run.found["asyncio"].tables
        text += f"{first.markdown()}\n{report.head(run, commit)}\n"
        text += "".join(f"{table.markdown(4)}\n\n" for table in others)
    text += "".join(f"\n{line}\n" for line in report.missing(runs))
    if chosen.page is not None:
        paste(chosen.page, MARK, text.strip())
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
