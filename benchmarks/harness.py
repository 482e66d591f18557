"""Interleaved measuring: every round runs every subject, and ratios are taken within a round.

Another process that takes the processor for a while then slows both sides of a
ratio. Absolute times are kept for the reader's sense of scale only.
"""

from __future__ import annotations

import asyncio
import gc
import math
import statistics
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

COST: Final = "seconds"
"""What a measure that answers with one number has measured: seconds for one operation."""

Sample = Mapping[str, float]
Measure = Callable[[], Awaitable[float | Sample]]
"""Runs once and answers what it cost: seconds for one operation, or several quantities by name."""


@dataclass(frozen=True, slots=True)
class Spread:
    """A median and its quartiles.

    Attributes:
        median: half of the rounds are below.
        low: the lower quartile.
        high: the upper quartile.
        rounds: how many there were; None where that is not known, or nothing varies from round to round.
    """

    median: float
    low: float
    high: float
    rounds: int | None = field(default=None, compare=False)

    def scaled(self, factor: float) -> Spread:
        """The same in another unit."""
        return Spread(self.median * factor, self.low * factor, self.high * factor, self.rounds)

    def __str__(self) -> str:
        return f"{shown(self.median)} ({shown(self.low)} to {shown(self.high)})"


def shown(number: float) -> str:
    """A number with about three digits that count."""
    if not math.isfinite(number):
        return str(number)
    return (
        f"{number:.0f}" if abs(number) >= 100 else f"{number:.1f}" if abs(number) >= 20 else f"{number:.2f}"
    )


def spread(values: Iterable[float]) -> Spread:
    """The median of `values` and the quartiles around it.

    Raises:
        ValueError: there are none.
    """
    found = list(values)
    if not found:
        raise ValueError("a spread of nothing")
    if len(found) == 1:
        return Spread(found[0], found[0], found[0], 1)
    low, middle, high = statistics.quantiles(found, n=4, method="inclusive")
    return Spread(middle, low, high, len(found))


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest of `values` that at least `share` of them do not exceed (nearest rank).

    Args:
        values: in any order.
        share: from above 0 to 1; 0.99 for p99.

    Raises:
        ValueError: there are no values, or `share` is out of its range.
    """
    if not values:
        raise ValueError("a percentile of nothing")
    if not 0.0 < share <= 1.0:
        raise ValueError(f"share must be above 0 and at most 1, got {share}")
    # The product is rounded first: 0.07 * 100 is a little more than 7.
    return sorted(values)[max(0, math.ceil(round(share * len(values), 9)) - 1)]


def reason(error: BaseException) -> str:
    """Why something is missing in a report, in one line."""
    return " ".join(f"{type(error).__name__}: {error}".split())[:200]


@dataclass
class Rounds:
    """What each subject measured in each round; index i of every list is the same round."""

    samples: dict[str, list[Sample]] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)

    def values(self, subject: str, what: str = COST) -> list[float]:
        """One quantity of one subject, by rounds."""
        return [sample[what] for sample in self.samples[subject]]

    def each(self, combine: Callable[..., float], *subjects: str, what: str = COST) -> Spread:
        """The spread of what `combine` makes of one round's values of these subjects."""
        columns = [self.values(subject, what) for subject in subjects]
        return spread(combine(*row) for row in zip(*columns, strict=True))

    def ratio(self, subject: str, base: str, what: str = COST) -> Spread:
        """How much `subject` has in terms of `base`: the spread of the ratios within rounds."""
        return self.each(lambda mine, theirs: mine / theirs, subject, base, what=what)

    def spread(self, subject: str, what: str = COST) -> Spread:
        """One quantity of one subject."""
        return spread(self.values(subject, what))

    def cost_us(self, subject: str) -> float:
        """The median cost in microseconds."""
        return statistics.median(self.values(subject)) * 1e6


async def interleave(
    subjects: Mapping[str, Measure], *, rounds: int, limit_s: float = 120.0, is_cold: bool = True
) -> Rounds:
    """Measure all subjects in turn, `rounds` times, each round beginning with another one, and back to front.

    A subject that raises, or measures for longer than `limit_s` seconds, is left out from then on, and
    `Rounds.failed` says why. The first round only warms up; there is none where that was done (`is_cold`).

    What is there once all are warm is set aside for the garbage collector until the end: a full collection
    would look at every peer's modules, in the middle of whoever happens to be measured.
    """
    result = Rounds({name: [] for name in subjects})
    try:
        for number in range(-1 if is_cold else 0, rounds):
            gc.collect()
            if number == 0:
                gc.freeze()
            for name in _order(list(subjects), number):
                if name not in result.failed:
                    await _measure(name, subjects[name], result, limit_s, is_counted=number >= 0)
    finally:
        gc.unfreeze()
    return result


def _order(names: list[str], number: int) -> list[str]:
    """Who is measured after whom in this round."""
    turn = number % max(1, len(names))
    order = names[turn:] + names[:turn]
    return order[:: -1 if number % 2 else 1]


async def _measure(name: str, measure: Measure, result: Rounds, limit_s: float, *, is_counted: bool) -> None:
    """Measure one subject once, into `result`."""
    try:
        async with asyncio.timeout(limit_s):
            found = await measure()
    except Exception as error:
        result.failed[name] = reason(error)
        del result.samples[name]
        return
    if is_counted:
        result.samples[name].append(found if isinstance(found, Mapping) else {COST: found})
