"""Many histories one after the other, or shared among processes; what they came to."""

from __future__ import annotations

import contextlib
import gc
import logging
import time
import traceback
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from dataclasses import dataclass
from multiprocessing import get_context
from typing import TYPE_CHECKING, Final

from millpond.testing.histories.history import play

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

BATCH: Final = 20
"""Histories that a process plays before it reports."""


@dataclass(slots=True)
class Sum:
    """What has been played; `failed` is the seed of a history that failed, `why` its error."""

    histories: int = 0
    operations: int = 0
    steps: int = 0
    seconds: float = 0.0
    failed: int | None = None
    why: str = ""

    def add(self, other: Sum) -> None:
        """Count what another process has played; of several failures the one with the lowest seed stays."""
        self.histories += other.histories
        self.operations += other.operations
        self.steps += other.steps
        self.seconds += other.seconds
        if other.failed is not None and (self.failed is None or other.failed < self.failed):
            self.failed, self.why = other.failed, other.why


def play_all(seeds: Sequence[int], operations: int, until: float) -> Sum:
    """Play these histories, up to the first that fails, or until the clock shows `until` (monotonic)."""
    played = Sum()
    with _silence():
        _play(seeds, operations, until, played)
        if played.failed is not None:
            gc.collect()  # tasks that it has left behind complain when they are found
    return played


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """The pools complain in their log, as they should; nobody is to read it."""
    before = logging.root.manager.disable
    logging.disable(logging.CRITICAL)
    try:
        yield
    finally:
        logging.disable(before)


def _play(seeds: Sequence[int], operations: int, until: float, played: Sum) -> None:
    for seed in seeds:
        if time.monotonic() >= until:
            break
        try:
            report = play(seed, operations)
        except Exception as error:
            played.failed = seed
            played.why = "".join(traceback.format_exception_only(error))
            break
        played.histories += 1
        played.operations += report.operations
        played.steps += report.steps
        played.seconds += report.seconds


def in_processes(batches: Iterator[Sequence[int]], operations: int, until: float, jobs: int) -> Sum:
    """Share the batches among processes, up to the first failure or until time is up."""
    total = Sum()
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as workers:
        under_way: set[Future[Sum]] = set()
        for batch in batches:
            under_way.add(workers.submit(play_all, batch, operations, until))
            if len(under_way) >= 2 * jobs:
                done, under_way = wait(under_way, return_when=FIRST_COMPLETED)
                for each in done:
                    total.add(each.result())
            if total.failed is not None or time.monotonic() >= until:
                break
        for each in under_way:
            total.add(each.result())
    return total


def in_this_process(batches: Iterator[Sequence[int]], operations: int, until: float) -> Sum:
    """Play the batches one after the other."""
    total = Sum()
    for batch in batches:
        total.add(play_all(batch, operations, until))
        if total.failed is not None or time.monotonic() >= until:
            break
    return total
