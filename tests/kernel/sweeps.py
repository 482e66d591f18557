"""The machinery of the sweeps: play an operation undisturbed, then once for each point at which it waits.

A point is a step of the loop right before which the operation is suspended: it
waits, or what it waited for has come and it has not run yet. Runs with one
seed are alike up to the strike, so the undisturbed one tells all points.
"""

import asyncio
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from millpond.errors import CircuitOpen, ConnectFailed, PoolClosed, PoolTimeout
from millpond.testing import run
from millpond.testing.loop import current
from tests.kernel.operations import Operation
from tests.kernel.situations import Situation
from tests.kernel.stage import Stage
from tests.kernel.strikes import Attempt, Strike

EXPECTED = (PoolTimeout, PoolClosed, CircuitOpen, ConnectFailed, OSError)
"""How an operation may end that nobody disturbed."""

REST_S = 3.0
"""After the trouble (virtual seconds): every pause between attempts is over, every late driver call too."""


@dataclass(frozen=True)
class Play:
    """One operation in one situation, struck in one way.

    Attributes:
        behind: how many wait behind it.
        seed: of the schedule; None: asyncio's own order.
    """

    operation: Operation
    situation: Situation
    strike: type[Strike]
    behind: int = 0
    seed: int | None = None

    def __str__(self) -> str:
        others = f", {self.behind} behind it" if self.behind else ""
        return f"{self.operation.name} {self.strike.name}: {self.situation.name}{others} (seed {self.seed})"

    @property
    def may_be_refused(self) -> bool:
        """Others may get an error, by design."""
        return self.situation.fails or self.operation.ends_the_pool


class Performance:
    """One run of a play: undisturbed, or struck at one point."""

    def __init__(self, play: Play, point: float | None, factory: Any = None) -> None:
        self.play = play
        self.point = point
        self.factory = factory
        self.points: dict[float, None] = {}  # in order
        self.hits = 0
        self.strike: Strike | None = None

    def perform(self) -> None:
        """Do it; raises what the operation, the others, the books or the backend have to complain of."""
        try:
            run(self._main, seed=self.play.seed, setup=self._set_up, check_timers=True)
        except BaseException as error:
            error.add_note(f"{self.play}, struck at {self.point}")
            raise

    def _set_up(self, loop: Any) -> None:
        if self.factory is not None:
            loop.set_task_factory(self.factory)
        if self.point is not None and not self.play.strike.is_in_time:
            loop.at_step(self.point, self._strike)

    def _strike(self) -> None:
        assert self.strike is not None
        assert self.strike.attempt.is_suspended, "the runs are not alike"
        self.hits += 1
        self.strike.strike()

    def _after_step(self) -> None:
        self.stage.auditor.after_step()
        if self.strike is None or not self.strike.attempt.is_suspended:
            return
        if self.hits:
            self.strike.again()
        loop = current()
        self.points[loop.time() if self.play.strike.is_in_time else loop.steps + 1] = None

    async def _main(self) -> None:
        play = self.play
        self.stage = stage = Stage(play.situation.scene, play.operation.settings, play.seed)
        stage.auditor.attach()
        current().after_step = self._after_step
        await play.situation.prepare(stage)
        attempt = Attempt(play.operation, stage)
        when = self.point if play.strike.is_in_time else None
        self.strike = strike = play.strike(attempt, when)
        await attempt.begun
        await stage.queue_behind(play.behind)
        await asyncio.wait([strike.task], timeout=100)
        assert strike.task.done(), "the operation hangs"
        self._judge(strike)
        await stage.calm()
        await stage.everybody_is_done(may_be_refused=play.may_be_refused)
        if not play.situation.reorders:
            stage.those_behind_kept_their_order()
        await stage.calm()  # trouble that came late
        await asyncio.sleep(REST_S)
        stage.nothing_is_left_of_a_new_pool()
        await stage.burst()
        await stage.end()

    def _judge(self, strike: Strike) -> None:
        if play_in_time := self.play.strike.is_in_time:
            self.hits = int(strike.attempt.was_cancelled)
        if self.hits or (play_in_time and self.point is not None):
            strike.judge()
            return
        if not strike.task.cancelled():
            strike.task.exception()  # looked at here, so that nobody complains at its end
        error = strike.attempt.error
        if error is not None and not isinstance(error, EXPECTED):
            raise error


def sweep(play: Play, factory: Any = None) -> int:
    """Perform it at every point; how often it was struck while it waited."""
    scout = Performance(play, None, factory)
    scout.perform()
    hits = 0
    for point in _points(scout):
        performance = Performance(play, point, factory)
        performance.perform()
        hits += performance.hits
    return hits


def _points(scout: Performance) -> Iterator[float]:
    """Steps; of instants also what lies between two of them."""
    points = list(scout.points)
    yield from points
    if scout.play.strike.is_in_time:
        yield from ((one + other) / 2 for one, other in pairwise(points))
