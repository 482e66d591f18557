"""What was measured, kept as files and written down: `var/bench/report.md`, plots, and pages of the docs."""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import re
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Final, Self

from benchmarks import limits
from benchmarks.results import Result, grid
from benchmarks.subjects import PEERS
from tests.pages import around, paste
from tests.servers import mariadb, postgres, rabbitmq, redis

PLACE: Final = Path("var/bench")
QUICK, WHOLE = "make bench", "make bench-all"
PYTHON: Final = ".".join(map(str, sys.version_info[:2]))
"""The interpreter that this is."""
_BESIDE_PEERS: Final = ("psycopg", "SQLAlchemy", "uvloop")


@dataclass(slots=True)
class Run:
    """One run of the benchmarks under one interpreter.

    Attributes:
        about: where and how, in words, by topic.
        python: the interpreter's version, like `3.11`.
        found: the result under each loop.
    """

    about: dict[str, str]
    python: str
    found: dict[str, Result]

    def save(self, file: Path) -> None:
        """Keep it for a report."""
        file.parent.mkdir(parents=True, exist_ok=True)
        kept = {
            "about": self.about,
            "python": self.python,
            "found": {n: r.as_dict() for n, r in self.found.items()},
        }
        file.write_text(json.dumps(kept, indent=1, ensure_ascii=False), encoding="utf-8")

    @classmethod
    def load(cls, file: Path) -> Self:
        """What `save` wrote."""
        kept = json.loads(file.read_text(encoding="utf-8"))
        return cls(
            kept["about"],
            kept["python"],
            {name: Result.from_dict(each) for name, each in kept["found"].items()},
        )


def versions() -> dict[str, str]:
    """Which version of each peer, and of what stands beside them, this is."""
    found = {}
    for name in [*(distribution for _, distribution in PEERS.values()), *_BESIDE_PEERS]:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def _processor() -> str:
    try:
        names = re.findall(r"^model name\s*: (.+)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    except OSError:
        names = []
    return names[0] if names else platform.processor() or "unknown processor"


def servers() -> str:
    """Which versions of the servers this is."""
    programs = {
        "PostgreSQL": postgres.find_binaries() / "postgres",
        "MariaDB": mariadb.find_binaries(),
        "Redis": redis.find_binaries(),
    }
    found = {"RabbitMQ": rabbitmq.find_binaries().name}
    for name, program in programs.items():
        done = subprocess.run([str(program), "--version"], capture_output=True, text=True, check=True)
        found[name] = done.stdout
    return ", ".join(f"{name} {re.findall(r'[0-9]+(?:[.][0-9]+)+', said)[0]}" for name, said in found.items())


def _load() -> str:
    return " ".join(f"{each:.1f}" for each in os.getloadavg())


def sources() -> str:
    """Which commit the sources are of that lie here."""
    said = subprocess.run(
        ["git", "describe", "--always", "--dirty"], capture_output=True, text=True, check=False
    )
    return said.stdout.strip() or "unknown"


@dataclass(frozen=True, slots=True)
class Began:
    """When a run began, in words, and what the machine had to do then."""

    at: str
    load: str

    @classmethod
    def now(cls) -> Self:
        """This instant."""
        return cls(f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", _load())


def machine(command: str, began: Began) -> dict[str, str]:
    """Where, when and how something was measured, as the head of a report says it."""
    return {
        "Python": f"{platform.python_implementation()} {platform.python_version()}",
        "date": began.at,
        "machine": f"{platform.system()} {platform.machine()}, {os.cpu_count()} processors ({_processor()})",
        "load when it began": began.load,
        "load when it ended": _load(),
        "commit": sources(),
        "command": f"`{command}`",
    }


def about(command: str, began: Began) -> dict[str, str]:
    """The same, and the versions of servers and peers."""
    return machine(command, began) | {
        "servers": servers(),
        "peers": ", ".join(f"{name} {version}" for name, version in versions().items()),
    }


def rounds(text: str) -> int:
    """A number of rounds on the command line, from 1 on."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"at least 1, not {number}")
    return number


def check(page: Path | None, mark: str) -> None:
    """See that what is going to be found can be kept, and put into the page.

    Raises:
        OSError: the page cannot be read, or there is no writing where runs are kept.
        ValueError: the page has no place for it.
    """
    PLACE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile(dir=PLACE):
        pass
    if page is not None:
        around(page, mark)


def keep(found: dict[str, Result], *, is_whole: bool, command: str, began: Began) -> None:
    """Keep what was found for this and later reports."""
    kind = "all" if is_whole else "targets"
    Run(about(command, began), PYTHON, found).save(PLACE / f"{kind}-{PYTHON}.json")


def unkept(found: dict[str, Result]) -> str:
    """Targets and tables of a run that measured a part of it all."""
    run = Run({}, PYTHON, found)
    gaps = "".join(f"\n{line}\n" for line in missing([run]))
    return "\n".join([targets(run), *(tables(run, loop, 3) for loop in found), gaps])


def kept(kind: str) -> list[Run]:
    """The kept runs of one kind (`all`, `targets`, `compiled`), by version of the interpreter."""
    runs = [Run.load(file) for file in PLACE.glob(f"{kind}-*.json")]
    return sorted(runs, key=lambda run: [int(part) for part in run.python.split(".")])


def head(run: Run, commit: str | None = None) -> str:
    """Machine, date, versions and command of one run.

    Args:
        run: which.
        commit: of the sources that lie here; a run of another one says so.
    """
    its_own = run.about.get("commit", "unknown")
    about = run.about | (
        {"kept": f"from a run of {its_own}; this is {commit}"} if _is_of_other(run, commit) else {}
    )
    return "".join(f"- {topic}: {text}\n" for topic, text in about.items())


def _is_of_other(run: Run, commit: str | None) -> bool:
    return commit is not None and run.about.get("commit") != commit


def targets(run: Run) -> str:
    """The table of targets, whatever loop a line was measured under, and what was tried for those not met."""
    found = [target for result in run.found.values() for target in result.targets]
    if not found:
        return ""
    table = grid(
        ["measure", "target", "measured: median (quartiles)", "", "note"], [each.cells() for each in found]
    )
    unmet: dict[str, list[str]] = {}
    for target in found:
        if target.is_met is False:
            doubt = f" ({target.doubt})" if target.doubt else ""
            unmet.setdefault(limits.why(target), []).append(f"{target.measure}{doubt}")
    if not unmet:
        return table
    lines = [f"- {'; '.join(dict.fromkeys(measures))}: {text}\n" for text, measures in unmet.items()]
    return f"{table}\nNot met; what was tried, and what the limit is:\n\n{''.join(lines)}"


def side_by_side(runs: list[Run]) -> str:
    """The lines of the table of targets that several runs and loops have, a column each."""
    columns = {(run.python, loop): result for run in runs for loop, result in run.found.items()}
    lines: dict[str, dict[tuple[str, str], str]] = {}
    for column, result in columns.items():
        for target in result.targets:
            measure, limit, median, _, _ = target.cells()
            # The peer that was fastest may be another one in another run, and a loop has its own column.
            key = re.sub(r" \([^)]*\)$", "", measure.replace(f", {column[1]}:", ":"))
            stars = f"{'' if target.is_met else ' **!**'}{' ?' if target.doubt else ''}"
            lines.setdefault(key, {})[column] = f"{median.split(' (')[0]} ({limit}){stars}"
    rows = [[key, *(cells.get(column, "") for column in columns)] for key, cells in lines.items()]
    return grid(["measure", *(f"{python}, {loop}" for python, loop in columns)], rows)


def missing(runs: list[Run]) -> list[str]:
    """What could not be measured, and why, a line each."""
    return [
        f"Not measured ({run.python}, {loop}): {name}: {why}"
        for run in runs
        for loop, result in run.found.items()
        for name, why in result.missing.items()
    ]


def tables(run: Run, loop: str, level: int) -> str:
    """All tables of one run under one loop."""
    return "\n".join(table.markdown(level) for table in run.found[loop].tables)


def draw_all(run: Run, loop: str, place: Path, suffix: str = "") -> list[tuple[str, Path]]:
    """Draw the figures of one run under one loop; answers titles and files."""
    from benchmarks.plots import draw

    place.mkdir(parents=True, exist_ok=True)
    drawn = []
    for figure in run.found[loop].figures:
        file = place / f"{figure.name}{suffix}.png"
        draw(figure, file, f"{run.about['Python']}, {loop}, commit {run.about['commit']}")
        drawn.append((figure.title, file))
    return drawn


def whole(runs: list[Run], commit: str) -> str:
    """Every table and plot of every run and loop."""
    text = ""
    for run in runs:
        text += f"## CPython {run.python}\n\n{head(run, commit)}\n{targets(run)}\n"
        for loop in run.found:
            text += f"## CPython {run.python}, {loop}\n\n{tables(run, loop, 3)}\n"
            for title, file in draw_all(run, loop, PLACE, f"-{run.python}-{loop}"):
                text += f"![{title}]({file.name})\n\n"
    return text


def write(*, is_whole: bool, page: Path | None = None) -> str:
    """Write the report of the kept runs, and put the short form of it into a page; answers what to print.

    Printed is the run under this interpreter; report and page have those that were kept of others, too.

    Raises:
        FileNotFoundError: nothing was kept.
    """
    runs = kept("all" if is_whole else "targets")
    if not runs:
        raise FileNotFoundError(f"no run is kept in {PLACE}: measure first")
    mine = [run for run in runs if run.python == PYTHON] or runs
    return _whole(runs, mine, page) if is_whole else _quick(runs, mine, page)


def _gaps(runs: list[Run]) -> str:
    return "".join(f"\n{line}\n" for line in missing(runs))


def _quick(runs: list[Run], mine: list[Run], page: Path | None) -> str:
    """Write the report of the table of targets; answers what to print of it."""
    commit = sources()

    def short(some: list[Run]) -> str:
        return "\n".join(f"{head(run, commit)}\n{targets(run)}" for run in some) + _gaps(some)

    text = short(runs) + "".join(
        f"\n## {run.python}, {loop}\n\n{tables(run, loop, 3)}" for run in runs for loop in run.found
    )
    for run in runs:
        for loop in run.found:
            for title, file in draw_all(run, loop, PLACE, f"-{run.python}-{loop}"):
                text += f"\n![{title}]({file.name})\n"
    (PLACE / "report.md").write_text(text, encoding="utf-8")
    if page is not None:
        paste(page, QUICK, short(runs).strip())
    return f"{short(mine)}\nTables and plots: {PLACE / 'report.md'}\n"


def _whole(runs: list[Run], mine: list[Run], page: Path | None) -> str:
    """Write the report of everything; answers what to print of it."""
    commit = sources()
    summary, gaps = side_by_side(runs), _gaps(runs)
    (PLACE / "report-all.md").write_text(f"{summary}\n{gaps}\n{whole(runs, commit)}", encoding="utf-8")
    if page is not None:
        first, loop = runs[0], next(iter(runs[0].found))
        drawn = draw_all(first, loop, page.parent / "plots")
        plots = "\n".join(f"![{title}]({file.relative_to(page.parent)})\n" for title, file in drawn)
        heads = "\n".join(head(run, commit) for run in runs)
        paste(page, WHOLE, f"{heads}\n{summary}\n{gaps}\n{plots}\n{tables(first, loop, 3)}".strip())
    heads = "\n".join(head(run, commit) for run in mine)
    return f"{heads}\n{side_by_side(mine)}{_gaps(mine)}\nEverything: {PLACE / 'report-all.md'}\n"
