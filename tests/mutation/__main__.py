"""Plant faults in a copy of the kernel and see who notices: `python -m tests.mutation`."""

import argparse
import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.mutation.fault import Fault
from tests.mutation.faults import FAULTS
from tests.mutation.page import MARK, fuzzer_share, table, verdict
from tests.mutation.trial import Trial, attempt
from tests.pages import paste


def main() -> int:
    """Run the trials; 1 when a fault is not caught as it should be."""
    options = _options()
    faults = [fault for fault in FAULTS if not options.only or fault.name in options.only]
    if unknown := set(options.only) - {fault.name for fault in faults}:
        print(f"no such fault: {', '.join(sorted(unknown))}; --list tells them all", file=sys.stderr)
        return 2
    if options.list:
        for fault in faults:
            print(f"{fault.name:40}{fault.breaks!s:12}{fault.does}")
        return 0
    planted: list[Fault | None] = list(faults) if options.only else [None, *faults]
    trials = _run(planted, jobs=options.jobs, fuzz_s=options.fuzz_seconds, talks=options.verbose)
    caught, expected = fuzzer_share(trials)
    print(f"the fuzzer alone caught {caught} of {expected}")
    if options.page is not None and not options.only:
        paste(options.page, MARK, table(trials, fuzz_s=options.fuzz_seconds))
    wrong = verdict(trials, fuzzed=options.fuzz_seconds > 0)
    print(*wrong, sep="\n", file=sys.stderr)
    return 1 if wrong else 0


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.mutation", description=__doc__)
    parser.add_argument("--only", action="append", default=[], metavar="NAME", help="this fault; repeatable")
    parser.add_argument("--fuzz-seconds", type=float, default=60.0, help="for each fault; 0: the suite only")
    parser.add_argument("--jobs", type=int, default=1, help="trials at a time")
    parser.add_argument("--page", type=Path, help="put the result between the marks of this page")
    parser.add_argument("--list", action="store_true", help="name the faults and stop")
    parser.add_argument("--verbose", action="store_true", help="show what the tests and the fuzzer printed")
    return parser.parse_args()


def _run(faults: Sequence[Fault | None], *, jobs: int, fuzz_s: float, talks: bool) -> list[Trial]:
    def one(fault: Fault | None) -> Trial:
        trial = attempt(fault, fuzz_s=fuzz_s)
        print(_line(trial), flush=True)
        if talks:
            print(trial.suite.text, trial.fuzzer.text, sep="\n", flush=True)
        return trial

    with ThreadPoolExecutor(jobs) as pool:
        return list(pool.map(one, faults))


def _line(trial: Trial) -> str:
    name = "(no fault)" if trial.fault is None else trial.fault.name
    words = [f"{who}: {answer.by or 'not caught'} ({answer.took:.1f} s)" for who, answer in (
        ("suite", trial.suite), ("fuzzer", trial.fuzzer),
    )]  # fmt: skip
    return "\n    ".join([name, *words])


if __name__ == "__main__":
    sys.exit(main())
