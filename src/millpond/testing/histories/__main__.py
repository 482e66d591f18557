"""`python -m millpond.testing.histories`: play random histories until time is up, or one fails."""

from __future__ import annotations

import argparse
import itertools
import sys
import time
from typing import TYPE_CHECKING

from millpond.testing.histories.history import OPERATIONS
from millpond.testing.histories.playing import BATCH, in_processes, in_this_process

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m millpond.testing.histories", description=__doc__)
    parser.add_argument("--seconds", type=float, help="how long to play; left out: as long as --count says")
    parser.add_argument("--seed", type=int, default=0, help="of the first history (default: 0)")
    parser.add_argument("--count", type=int, help="how many histories; left out: as many as --seconds allow")
    parser.add_argument(
        "--operations", type=int, default=OPERATIONS, help=f"least of one history ({OPERATIONS})"
    )
    parser.add_argument("--jobs", type=int, default=1, help="processes (default: 1)")
    arguments = parser.parse_args(argv)
    if arguments.seconds is None and arguments.count is None:
        parser.error("say --seconds or --count")
    return arguments


def _batches(first: int, count: int | None) -> Iterator[Sequence[int]]:
    last = None if count is None else first + count
    for begin in itertools.count(first, BATCH):
        if last is not None and begin >= last:
            return
        yield range(begin, begin + BATCH if last is None else min(begin + BATCH, last))


def main(argv: Sequence[str] | None = None) -> int:
    """Play, and say how it went: 0 when all held, 1 when a history failed."""
    asked = _arguments(argv)
    began = time.monotonic()
    until = began + (float("inf") if asked.seconds is None else asked.seconds)
    batches = _batches(asked.seed, asked.count)
    if asked.jobs > 1:
        total = in_processes(batches, asked.operations, until, asked.jobs)
    else:
        total = in_this_process(batches, asked.operations, until)
    took = time.monotonic() - began
    print(
        f"{total.histories} histories, {total.operations} operations, {total.steps} steps, "
        f"{total.seconds:.0f} virtual seconds in {took:.1f} s: {total.steps / max(took, 0.001):.0f} steps/s"
    )
    if total.failed is None:
        return 0
    print(f"\nseed {total.failed} failed:\n{total.why}\nreplay it with")
    operations = "" if asked.operations == OPERATIONS else f" --operations {asked.operations}"
    print(f"    python -m millpond.testing.histories --seed {total.failed} --count 1{operations}")
    return 1


if __name__ == "__main__":
    sys.exit(main())
