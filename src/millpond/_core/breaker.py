"""The circuit breaker: when a backend counts as down. Pure: it hears outcomes and answers with a state."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from millpond.errors import InvariantBroken
from millpond.status import BreakerState

LEGAL: Final[Mapping[BreakerState, frozenset[BreakerState]]] = {
    BreakerState.CLOSED: frozenset({BreakerState.OPEN}),
    BreakerState.OPEN: frozenset({BreakerState.HALF_OPEN, BreakerState.CLOSED}),
    BreakerState.HALF_OPEN: frozenset({BreakerState.OPEN, BreakerState.CLOSED}),
}
# OPEN -> CLOSED at once is success_threshold 1, or a breaker that was switched off.


class Breaker:
    """Opens on failures in a row, closes on successes.

    While it is open only a connect that succeeds counts as a success: a lease
    on a connection that is still there says nothing about new ones (a server
    that answers "too many clients" serves its old clients well). Half open, a
    connect, a ping and a clean lease all count.
    """

    __slots__ = ("_failure_threshold", "_success_threshold", "_successes", "failures", "state")

    def __init__(self, failure_threshold: int | None, success_threshold: int) -> None:
        self.state = BreakerState.CLOSED
        self.failures = 0
        self._successes = 0
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold

    @property
    def is_open(self) -> bool:
        """True while nothing but a probe may go through."""
        return self.state is BreakerState.OPEN

    @property
    def is_half_open(self) -> bool:
        """True after a probe has succeeded and before the breaker closes."""
        return self.state is BreakerState.HALF_OPEN

    def tune(self, failure_threshold: int | None, success_threshold: int) -> None:
        """Take new thresholds; with None for failures, an open breaker closes."""
        self._failure_threshold = failure_threshold
        self._success_threshold = success_threshold
        if failure_threshold is None or (self.is_half_open and self._successes >= success_threshold):
            self._enter(BreakerState.CLOSED)

    def connect_failed(self, *, permanent: bool, is_known: bool = False) -> None:
        """Count a failed attempt; a permanent one opens at once.

        Args:
            permanent: trying again cannot help.
            is_known: one that was under way together with it has been counted: it is the same failure.
        """
        if not is_known:
            self.failures += 1
        if self._failure_threshold is None:
            return
        is_news = self.is_half_open and not is_known
        # Asked of a failure that is known too: the threshold may have been lowered since it was counted.
        if permanent or is_news or self.failures >= self._failure_threshold:
            self._enter(BreakerState.OPEN)

    def connect_succeeded(self) -> None:
        """Count a successful attempt; failures are no longer in a row."""
        self.failures = 0
        if self.is_open:
            self._enter(BreakerState.HALF_OPEN)
        self.proof_of_life()

    def proof_of_life(self) -> None:
        """Count a ping or a clean lease; it matters only while half open."""
        if not self.is_half_open:
            return
        self._successes += 1
        if self._successes >= self._success_threshold:
            self._enter(BreakerState.CLOSED)

    def go_without_probe(self) -> None:
        """There is no place for a probe: what serves well has to be proof enough."""
        if self.is_open:
            self._enter(BreakerState.HALF_OPEN)

    def _enter(self, state: BreakerState) -> None:
        if state is self.state:
            return
        if state not in LEGAL[self.state]:
            raise InvariantBroken(f"breaker {self.state.value} -> {state.value}")
        self.state = state
        self._successes = 0
