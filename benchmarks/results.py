"""What a part has found, as plain records: lines of the table of targets, tables, figures."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal, Self

from benchmarks.harness import Spread, shown

Sign = Literal["≤", "<", "≥"]
ENOUGH_ROUNDS: Final = 3
"""With fewer there are no quartiles to speak of."""


@dataclass(frozen=True, slots=True)
class Target:
    """One line of the table of targets.

    Attributes:
        measure: what was measured.
        sign: how the median has to stand to the limit.
        limit: the target.
        found: what was measured; None where it could not be.
        unit: of limit and measurement; empty for a ratio.
        note: what the reader should know about this number.
        key: by which `limits` finds what was tried for it; the same under every loop and for every peer.
    """

    measure: str
    sign: Sign
    limit: float
    found: Spread | None
    unit: str = ""
    note: str = ""
    key: str = ""

    @property
    def is_undecided(self) -> bool:
        """True when the limit lies between the quartiles: another run may say otherwise."""
        found = self.found
        return found is not None and _varies(found) and found.low <= self.limit <= found.high

    @property
    def doubt(self) -> str:
        """Why the verdict may be luck; empty when there is no reason to think so."""
        if self.found is None:
            return ""
        if self.found.rounds is not None and self.found.rounds < ENOUGH_ROUNDS:
            return "too few rounds"
        return "undecided" if self.is_undecided else ""

    @property
    def is_met(self) -> bool | None:
        """Whether the median keeps to the limit; None when nothing was measured."""
        if self.found is None:
            return None
        median = self.found.median
        match self.sign:
            case "≤":
                return median <= self.limit
            case "<":
                return median < self.limit
            case "≥":
                return median >= self.limit

    def cells(self) -> list[str]:
        """The line of a table: measure, target, measured, verdict."""
        unit = f" {self.unit}" if self.unit else ""
        verdict = {True: "met", False: "**not met**", None: "**not measured**"}[self.is_met]
        verdict = ", ".join(filter(None, (verdict, self.doubt)))
        found = (
            ""
            if self.found is None
            else f"{self.found}{unit}"
            if _varies(self.found)
            else (f"{shown(self.found.median)}{unit}")
        )
        return [self.measure, f"{self.sign} {self.limit:g}{unit}", found, verdict, self.note]


def _varies(found: Spread) -> bool:
    return not found.low == found.median == found.high


@dataclass(frozen=True, slots=True)
class Table:
    """A table and what to know about it."""

    title: str
    head: list[str]
    rows: list[list[str]]
    note: str = ""

    def markdown(self, level: int = 3) -> str:
        """As it stands in a report."""
        note = f"{self.note}\n\n" if self.note else ""
        return f"{'#' * level} {self.title}\n\n{note}{grid(self.head, self.rows)}"


def grid(head: list[str], rows: list[list[str]]) -> str:
    """A table in Markdown."""
    lines = [head, ["---"] * len(head), *rows]
    return "".join(f"| {' | '.join(cell.replace('|', '/') for cell in line)} |\n" for line in lines)


@dataclass(frozen=True, slots=True)
class Figure:
    """What one plot shows.

    Attributes:
        name: of its file, without the ending.
        title: above it.
        kind: `bars`: `series` holds one list of numbers per name, one number for each label;
            `facets`: the same, with a small plot for each label;
            `lines`: `series` holds points (x, y) per name.
        labels: of the groups of bars, or of the two axes.
        series: the numbers.
        unit: what a bar's length means.
        is_log: whether the axis of the numbers is logarithmic.
        marks: vertical lines of a `lines` figure, by what stands beside them.
    """

    name: str
    title: str
    kind: Literal["bars", "facets", "lines"]
    labels: list[str]
    series: dict[str, list[Any]]
    unit: str = ""
    is_log: bool = False
    marks: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class Result:
    """What one part has found under one interpreter and one loop."""

    targets: list[Target] = field(default_factory=list)
    tables: list[Table] = field(default_factory=list)
    figures: list[Figure] = field(default_factory=list)
    missing: dict[str, str] = field(default_factory=dict)

    @property
    def is_empty(self) -> bool:
        """True when nothing at all was measured."""
        return not any(table.rows for table in self.tables) and all(t.found is None for t in self.targets)

    def lack(self, failed: Mapping[str, str], where: str) -> None:
        """Note who could not be measured, why, and at what: one that broke there may be in other tables."""
        self.missing |= {f"{name}, {where}": why for name, why in failed.items()}

    def add(self, other: Result) -> None:
        """Take over what another has found."""
        self.targets += other.targets
        self.tables += other.tables
        self.figures += other.figures
        self.missing |= other.missing

    def as_dict(self) -> dict[str, Any]:
        """For a file."""
        return asdict(self)

    @classmethod
    def from_dict(cls, found: dict[str, Any]) -> Self:
        """What `as_dict` gave."""
        return cls(
            [
                Target(**{**each, "found": each["found"] and Spread(**each["found"])})
                for each in found["targets"]
            ],
            [Table(**each) for each in found["tables"]],
            [Figure(**each) for each in found["figures"]],
            found["missing"],
        )
