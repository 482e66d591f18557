"""What a pool says of itself: frozen snapshots, made when asked for."""

from __future__ import annotations

import enum
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, Final

BUCKETS: Final[tuple[float, ...]] = (
    0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0,
)  # fmt: skip
"""Upper bounds of the histograms' buckets, seconds; one more holds what is above."""


class PoolState(enum.StrEnum):
    """What a pool does with borrowers."""

    NEW = "new"  # nothing was opened yet; the first acquire opens it
    OPEN = "open"  # lends
    PAUSED = "paused"  # lends nothing for now; borrowers queue or are refused
    DRAINING = "draining"  # lends nothing; waits for what is out; resume() reopens it
    CLOSING = "closing"  # lends nothing for ever; waits for what is out
    CLOSED = "closed"  # terminal; nothing is open


class BreakerState(enum.StrEnum):
    """What the circuit breaker does."""

    CLOSED = "closed"  # attempts go through
    OPEN = "open"  # the backend is down; one probe at a time, on the backoff
    HALF_OPEN = "half_open"  # a probe has succeeded; more successes close it


@dataclass(frozen=True, slots=True)
class PoolStatus:
    """What a pool is doing at one instant. `total` = opening + idle + busy + tending + closing."""

    name: str
    state: PoolState
    total: int
    opening: int
    idle: int
    busy: int
    tending: int
    closing: int
    waiting: int
    oldest_waiter: float
    leases: int
    healthy_connections: int
    healthy: bool
    min_size: int
    max_size: int
    utilization: float
    breaker: BreakerState
    generation: int
    abandoned: int
    last_error: str | None

    @property
    def max_connections(self) -> int:
        """Another word for `max_size`."""
        return self.max_size

    def as_dict(self) -> dict[str, Any]:
        """All fields by name; ready for JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class PoolCheck:
    """What `pool.check()` found.

    Attributes:
        healthy: the backend answers, as far as anybody can tell without queueing.
        latency: seconds the check took; 0 when there was recent proof.
        source: what it rests on: recent, ping, connect, busy, breaker or state.
        error: what was wrong, sanitized; None when healthy.
    """

    healthy: bool
    latency: float
    source: str
    error: str | None


class Histogram:
    """Counts of durations in fixed buckets (`BUCKETS`): bounded memory, whatever is recorded.

    Attributes:
        counts: by bucket; the last is for durations above the last bound.
        total: sum of all durations, seconds.
        fresh: durations that `fold` will count; whoever appends to it sees to it that it stays short.
        folded: how many `fold` has counted.
    """

    __slots__ = ("counts", "folded", "fresh", "total")

    def __init__(self) -> None:
        self.counts = [0] * (len(BUCKETS) + 1)
        self.total = 0.0
        self.fresh: list[float] = []
        self.folded = 0

    @property
    def noted(self) -> int:
        """How many durations were noted in `fresh`, ever."""
        return self.folded + len(self.fresh)

    def record(self, seconds: float) -> None:
        """Count one duration."""
        self.counts[bisect_left(BUCKETS, seconds)] += 1
        self.total += seconds

    def fold(self) -> None:
        """Count those that were only noted: many at once cost a tenth of as many one by one."""
        fresh = self.fresh
        if not fresh:
            return
        total = sum(fresh)
        if total <= BUCKETS[0] or max(fresh) <= BUCKETS[0]:
            self.counts[0] += len(fresh)
        else:
            fresh.sort()
            below = 0
            for bucket, bound in enumerate(BUCKETS):
                upto = bisect_right(fresh, bound, below)
                self.counts[bucket] += upto - below
                below = upto
            self.counts[-1] += len(fresh) - below
        self.total += total
        count = len(fresh)
        fresh.clear()
        self.folded += count  # last: another thread that adds both may miss some, and finds none twice

    def snapshot(self) -> HistogramSnapshot:
        """What has been recorded so far; changes nothing, for it may be called from another thread."""
        copy = Histogram()
        copy.counts, copy.total = self.counts.copy(), self.total
        copy.fresh = self.fresh.copy()
        copy.fold()
        return HistogramSnapshot(counts=tuple(copy.counts), total=copy.total)


@dataclass(frozen=True, slots=True)
class HistogramSnapshot:
    """A histogram at one instant.

    Attributes:
        counts: how many durations fell in each bucket; the last is for those above the last bound.
        total: sum of all durations, seconds.
    """

    counts: tuple[int, ...]
    total: float

    @property
    def count(self) -> int:
        """How many durations were recorded."""
        return sum(self.counts)

    @property
    def mean(self) -> float:
        """Mean duration, seconds; 0 when there is none."""
        return self.total / self.count if self.count else 0.0

    def cumulative(self) -> Sequence[tuple[float, int]]:
        """(upper bound, how many at most that long), as Prometheus wants it; the last bound is infinite."""
        pairs: list[tuple[float, int]] = []
        so_far = 0
        for bound, count in zip((*BUCKETS, float("inf")), self.counts, strict=True):
            so_far += count
            pairs.append((bound, so_far))
        return pairs

    def quantile(self, share: float) -> float:
        """Estimate of the duration that `share` (0 to 1) of all stayed below, seconds.

        Linear inside the bucket, as Prometheus' histogram_quantile does; what
        lies above the last bound counts as the last bound.
        """
        if not self.count:
            return 0.0
        rank = share * self.count
        lower, so_far = 0.0, 0
        for bound, count in zip(BUCKETS, self.counts, strict=False):
            if count and so_far + count >= rank:
                return lower + (bound - lower) * max(0.0, rank - so_far) / count
            lower, so_far = bound, so_far + count
        return BUCKETS[-1]


@dataclass(frozen=True, slots=True)
class PoolStats:
    """What a pool has done since it was made.

    requests = served + timed_out + cancelled + refused + failed + waiting, and
    opened = closed + open connections (closing ones included).
    """

    requests: int
    served: int
    timed_out: int
    cancelled: int
    refused: int
    failed: int
    waiting: int
    waited: int
    attempts: int
    opened: int
    open_failures: int
    closed: int
    closed_by_reason: Mapping[str, int]
    resets: int
    reset_failures: int
    pings: int
    ping_failures: int
    discarded: int
    leaked: int
    peak_busy: int
    listener_errors: int
    wait_seconds: HistogramSnapshot
    hold_seconds: HistogramSnapshot
    connect_seconds: HistogramSnapshot

    def as_dict(self) -> dict[str, Any]:
        """All counters by name, each histogram as count, sum, mean, p50, p95 and p99; ready for JSON."""
        values: dict[str, Any] = {}
        for each in fields(self):
            value = getattr(self, each.name)
            if isinstance(value, HistogramSnapshot):
                value = {
                    "count": value.count, "sum": value.total, "mean": value.mean, "p50": value.quantile(0.5),
                    "p95": value.quantile(0.95), "p99": value.quantile(0.99),
                }  # fmt: skip
            elif isinstance(value, Mapping):
                value = dict(value)
            values[each.name] = value
        return values
