"""Interleaved measuring: every round runs every subject, and ratios are taken within a round.

Another process that takes the processor for a while then slows both sides of a
ratio. Absolute times are kept for the reader's sense of scale only.
"""

from __future__ import annotations

import gc
import statistics
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, field

Measure = Callable[[], Awaitable[float]]
"""Runs once and answers what it cost: seconds for one operation."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its quartiles."""

    median: float
    low: float
    high: float

    def __str__(self) -> str:
        return f"{self.median:.2f} ({self.low:.2f} to {self.high:.2f})"


def spread(values: list[float]) -> Spread:
    """The median of `values` and the quartiles around it."""
    if len(values) < 2:
        return Spread(values[0], values[0], values[0])
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(middle, low, high)


@dataclass
class Rounds:
    """What each subject cost in each round, seconds; index i of every list is the same round."""

    costs: dict[str, list[float]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def ratio(self, subject: str, base: str) -> Spread:
        """How much `subject` costs in terms of `base`: the spread of the ratios within rounds."""
        pairs = zip(self.costs[subject], self.costs[base], strict=True)
        return spread([mine / theirs for mine, theirs in pairs])

    def cost_us(self, subject: str) -> float:
        """The median cost in microseconds."""
        return statistics.median(self.costs[subject]) * 1e6


async def interleave(subjects: Mapping[str, Measure], *, rounds: int) -> Rounds:
    """Measure all subjects in turn, `rounds` times, each round beginning with another one.

    A subject that raises is left out from then on, and `Rounds.failed` says why.
    """
    result = Rounds({name: [] for name in subjects})
    names = list(subjects)
    for number in range(-1, rounds):  # round -1 warms up: its result is dropped
        gc.collect()
        turn = number % len(names)
        for name in names[turn:] + names[:turn]:
            if name in result.failed:
                continue
            try:
                cost = await subjects[name]()
            except Exception as error:
                result.failed[name] = f"{type(error).__name__}: {error}"
                del result.costs[name]
                continue
            if number >= 0:
                result.costs[name].append(cost)
    return result
