"""Run the benchmarks in processes of their own, write `var/bench/report.md`, print the table of targets.

Exit status 0: everything was measured and kept. 1: a part failed; nothing was kept, and no page changed.
2: what was asked for cannot be done. 128 and more: stopped by a signal, as a shell counts it.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, NoReturn

from benchmarks import report
from benchmarks.harness import reason
from benchmarks.parts import PARTS, Plan
from benchmarks.results import Result

LOOPS: Final = ("asyncio", "uvloop")
TARGETS: Final = (("asyncio", "pools"), ("asyncio", "postgresql"), ("uvloop", "postgresql"))
"""What the table of targets needs: loop and part."""
_STOP_S: Final = 30.0
"""So long a part may take to close its pools and servers when it is told to stop."""

Work = tuple[str, str]
"""A loop and a part that is measured under it."""

_ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Stopped(BaseException):
    """A signal asked for the end."""

    def __init__(self, number: int) -> None:
        self.number = number
        super().__init__(signal.Signals(number).name)


class PartFailed(Exception):
    """A part of the run crashed, or found nothing."""


def _stop(number: int, _frame: object) -> NoReturn:
    raise Stopped(number)


def measure(part: str, plan: Plan, file: Path) -> int:
    """Run one part in this process, and write what it found; a signal cancels it and closes its servers."""
    # The loop's runner turns an interrupt into the cancellation of what runs, if it finds Python's handler.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: signal.raise_signal(signal.SIGINT))
    try:
        if plan.loop == "uvloop":
            import uvloop

            found = uvloop.run(PARTS[part](plan))
        else:
            found = asyncio.run(PARTS[part](plan))
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    file.write_text(json.dumps(found.as_dict()), encoding="utf-8")
    return 0


def in_a_process(part: str, chosen: argparse.Namespace, loop: str) -> Result:
    """Run one part in a process of its own: some stand-ins change their library for good.

    Raises:
        PartFailed: it crashed, or found nothing.
    """
    began = time.monotonic()
    print(f"{loop}, {part} ...", file=sys.stderr, end=" ", flush=True)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory, "found.json")
        command = [sys.executable, "-m", "benchmarks", "--part", part, "--loop", loop, "--out", str(file)]
        command += ["--rounds", str(chosen.rounds), "--server-rounds", str(chosen.server_rounds)]
        status = run([*command, *(["--all"] if chosen.all else [])])
        print(f"{time.monotonic() - began:.0f} s", file=sys.stderr)
        if status != 0 or not file.exists():
            raise PartFailed(f"{part} under {loop} ended with {status}")
        found = Result.from_dict(json.loads(file.read_text(encoding="utf-8")))
    if found.is_empty:
        gaps = "; ".join(f"{name}: {why}" for name, why in found.missing.items())
        raise PartFailed(f"{part} under {loop} found nothing{gaps and f' ({gaps})'}")
    return found


@contextmanager
def _postponed() -> Iterator[None]:
    """Keep what signals raise until the end of the block."""
    came: list[int] = []
    kept = {number: signal.getsignal(number) for number in _ENDING if signal.getsignal(number) is _stop}
    for number in kept:
        signal.signal(number, lambda number, _frame: came.append(number))
    try:
        yield
    finally:
        for number, handler in kept.items():
            signal.signal(number, handler)
    if came:
        raise Stopped(came[0])


def run(command: list[str]) -> int:
    """Run it to its end, and end it if this process is told to stop meanwhile; answers its exit status.

    In a process group of its own: an interrupt from the terminal reaches this process, which passes it on
    once. A second one would hit the child while it closes its servers.
    """
    child = None
    try:
        with _postponed():  # or a signal could come between the child's birth and its name in here
            child = subprocess.Popen(command, process_group=0)
        return child.wait()
    except BaseException:
        if child is None:
            raise
        child.terminate()
        try:
            child.wait(_STOP_S)
        except (subprocess.TimeoutExpired, Stopped):
            child.kill()  # what keeps its servers ends them then
            child.wait()
        raise


def parsed(arguments: list[str]) -> tuple[argparse.Namespace, list[Work]]:
    """What is wanted, and which parts that are; ends with a message and 2 where it cannot be done.

    Everything that would be missed after minutes of measuring is looked at here.
    """
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--all", action="store_true", help="everything, not only the table of targets")
    parser.add_argument(
        "--rounds", type=report.rounds, default=21, help="of comparisons without a server (21)"
    )
    parser.add_argument(
        "--server-rounds", type=report.rounds, default=9, help="of comparisons on a real server (9)"
    )
    parser.add_argument("--page", type=Path, help="put tables and plots into this page, too")
    parser.add_argument("--report-only", action="store_true", help="measure nothing: what was found before")
    parser.add_argument(
        "--part", choices=PARTS, help="one part alone, only shown; with --out in this process"
    )
    parser.add_argument("--loop", choices=LOOPS, help="one loop alone, only shown")
    parser.add_argument("--out", type=Path, help="where --part writes what it found")
    chosen = parser.parse_args(arguments)
    every = [(loop, part) for loop in LOOPS for part in PARTS] if chosen.all else list(TARGETS)
    wanted = [
        (loop, part) for loop, part in every if chosen.loop in (None, loop) and chosen.part in (None, part)
    ]
    is_partial = chosen.loop is not None or chosen.part is not None
    if chosen.out is not None and chosen.part is None:
        parser.error("--out is for one --part")
    if chosen.out is None:
        if not wanted:
            asked = " under ".join(filter(None, (chosen.part or "everything", chosen.loop)))
            parser.error(f"the table of targets has nothing of {asked}: add --all")
        if is_partial and (chosen.page is not None or chosen.report_only):
            parser.error("--page and --report-only are for a whole run, without --part and --loop")
        if not is_partial:
            try:
                report.check(chosen.page, report.WHOLE if chosen.all else report.QUICK)
            except (OSError, ValueError) as error:
                parser.error(reason(error))
    return chosen, wanted


def all_parts(chosen: argparse.Namespace, wanted: list[Work]) -> tuple[dict[str, Result], list[str]]:
    """What each part has found, by loops; and which failed."""
    found: dict[str, Result] = {}
    failures = []
    for loop, part in wanted:
        try:
            found.setdefault(loop, Result()).add(in_a_process(part, chosen, loop))
        except PartFailed as failure:
            failures.append(str(failure))
    return found, failures


def main(arguments: list[str]) -> int:
    """Measure, and write what was found."""
    chosen, wanted = parsed(arguments)
    if chosen.out is not None:
        loop = chosen.loop or LOOPS[0]
        return measure(chosen.part, Plan(loop, chosen.rounds, chosen.server_rounds, chosen.all), chosen.out)
    if not chosen.report_only:
        began = report.Began.now()
        found, failures = all_parts(chosen, wanted)
        if failures or chosen.loop or chosen.part:  # a report has everything, or was not made
            print(report.unkept(found))
            for failure in failures:
                print(f"failed: {failure}", file=sys.stderr)
            if failures:
                print("Nothing was kept, and no report or page was changed.", file=sys.stderr)
            return int(bool(failures))
        command = " ".join(["python -m benchmarks", *arguments])
        report.keep(found, is_whole=chosen.all, command=command, began=began)
    try:
        print(report.write(is_whole=chosen.all, page=chosen.page))
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


def stoppable(arguments: list[str]) -> int:
    """`main`, which ends with one line when a signal asks for it."""
    for number in _ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:  # nohup has its reasons
            signal.signal(number, _stop)
    try:
        return main(arguments)
    except Stopped as stopped:
        print(f"\nStopped by {stopped}: a run is kept when it has ended.", file=sys.stderr)
        return 128 + stopped.number


if __name__ == "__main__":
    sys.exit(stoppable(sys.argv[1:]))
