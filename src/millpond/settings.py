"""How a pool behaves: one frozen, validated record, and what changing each field costs.

Every field carries its documentation, its range and its reload class; the
reference page, the configuration models and `--help` are made from there.
Validation refuses, it never repairs.
"""

from __future__ import annotations

import enum
import math
from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields, replace
from typing import Any, Final, Literal, Self, TypeAlias, get_args

from millpond.errors import InvalidSettings

ResetLevel: TypeAlias = Literal["none", "rollback", "full"]

LARGEST: Final = 1e12
"""No number of a setting reaches this; as seconds it is more than any clock's arithmetic minds."""


class Unset(enum.Enum):
    """The type of `UNSET`: an argument that was left out, where None already means something."""

    UNSET = "unset"

    def __repr__(self) -> str:
        return "UNSET"


UNSET: Final = Unset.UNSET
Timeout: TypeAlias = float | Unset | None
"""Seconds; None = no limit; 0 = only what is idle now; UNSET = the pool's own setting."""


class Reload(enum.IntEnum):
    """What a changed setting costs; the dearest change decides."""

    IN_PLACE = 1  # applied to the running pool; nobody notices
    NEW_POOL = 2  # a new pool opens beside the old one, which drains


@dataclass(frozen=True, slots=True)
class Range:
    """Which values a field takes: bounds, and whether None is one of them."""

    kind: type  # int, float, bool or str
    least: float | None = None
    most: float | None = None
    above: float | None = None  # like `least`, but the bound itself is out
    below: float | None = None  # like `most`, but the bound itself is out
    optional: bool = False
    choices: tuple[str, ...] = ()

    def __str__(self) -> str:
        if self.choices:
            words = "one of " + ", ".join(repr(choice) for choice in self.choices)
        elif self.kind is bool:
            words = "true or false"
        else:
            words = "a whole number" if self.kind is int else "a number"
            bounds = [
                f"{sign} {bound:g}"
                for sign, bound in (
                    (">=", self.least),
                    (">", self.above),
                    ("<=", self.most),
                    ("<", self.below),
                )
                if bound is not None
            ]
            words += (" " + " and ".join(bounds)) if bounds else ""
        return words + (", or None" if self.optional else "")

    def holds(self, value: object) -> bool:
        """True when `value` may stand in the field."""
        if value is None:
            return self.optional
        if self.choices:
            return isinstance(value, str) and value in self.choices
        if self.kind is bool:
            return isinstance(value, bool)
        if isinstance(value, bool) or not isinstance(value, int if self.kind is int else (int, float)):
            return False
        return (
            abs(value) < LARGEST  # not isfinite(): a whole number may be too large for a float
            and (self.least is None or value >= self.least)
            and (self.most is None or value <= self.most)
            and (self.above is None or value > self.above)
            and (self.below is None or value < self.below)
        )


def seconds(timeout: object) -> float | None:
    """A timeout that somebody passed, checked: None for no limit (infinity as well), else a number.

    Raises:
        InvalidSettings: it is not a number.
    """
    if timeout is None or timeout == math.inf:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)) or not abs(timeout) < LARGEST:
        raise invalid("timeout", timeout, "a number of seconds, or None for no limit")
    return float(timeout)


def invalid(name: str, value: object, takes: object) -> InvalidSettings:
    """The error that says what the setting `name` takes and what it was given."""
    return InvalidSettings(name, shown(value), must_be(takes, value))


def must_be(takes: object, value: object) -> str:
    """What to say of a refused value: what the field takes, and the common limit where `value` broke that.

    Args:
        takes: in words, or a `Range`.
        value: not repeated.
    """
    words = f"must be {takes}"
    return f"{words}; no number may reach {LARGEST:g}" if is_too_large(value) and "<" not in words else words


def is_too_large(value: object) -> bool:
    """True for a number that no field of any kind takes; infinity is none of them."""
    return isinstance(value, (int, float)) and LARGEST <= abs(value) < math.inf


def shown(value: object) -> object:
    """`value`, or, for a number that is too large, what stands for it in a message: how many digits it has.

    Python refuses to spell out a whole number of some thousand digits.
    """
    return _Digits(value) if isinstance(value, int) and is_too_large(value) else value


class _Digits:
    def __init__(self, number: int) -> None:
        self.count = int(math.log10(abs(number))) + 1

    def __repr__(self) -> str:
        return f"a number of {self.count} digits"


def setting(default: Any, takes: Range, doc: str, *, reload: Reload = Reload.IN_PLACE) -> Any:
    """Declare one field of a settings record: default, range, documentation, reload class."""
    return field(default=default, metadata={"doc": doc, "range": takes, "reload": reload})


_SECONDS: Final = Range(float, above=0.0)
_SECONDS_OR_NONE: Final = Range(float, above=0.0, optional=True)


@dataclass(frozen=True, slots=True, kw_only=True)
class PoolSettings:
    """How one pool behaves. All times are seconds.

    Raises:
        InvalidSettings: names the field, the value's fault and the range.
    """

    min_size: int = setting(
        1, Range(int, least=0), "Connections kept open in the background, even when nobody asks."
    )
    max_size: int = setting(10, Range(int, least=1), "Most connections at once, whatever their state.")
    max_idle: int | None = setting(
        None, Range(int, least=0, optional=True), "Most connections kept idle; None: as many as are open."
    )
    acquire_timeout: float | None = setting(
        10.0,
        Range(float, least=0.0, optional=True),
        "Longest an acquire may take in all: waiting, connecting, checking and retrying. "
        "0: only what is idle now. None: no limit.",
    )
    connect_timeout: float = setting(
        5.0, _SECONDS, "Longest one connection attempt may take, the on_connect hook included."
    )
    idle_timeout: float | None = setting(
        300.0, _SECONDS_OR_NONE, "An idle connection above min_size is closed after this long. None: never."
    )
    max_lifetime: float | None = setting(
        3600.0,
        _SECONDS_OR_NONE,
        "A connection older than this is replaced, at acquire, at return or by upkeep. None: never.",
    )
    lifetime_jitter: float = setting(
        0.2,
        Range(float, least=0.0, below=1.0),
        "Each connection's lifetime is shortened by a random share from 0 to this, "
        "so that connections opened together do not end together.",
    )
    max_uses: int | None = setting(
        None,
        Range(int, least=1, optional=True),
        "A connection is replaced after this many leases, counted from when the limit is set. None: never.",
    )
    health_check_interval: float | None = setting(
        30.0,
        _SECONDS_OR_NONE,
        "An idle connection neither used nor pinged for this long is pinged. None: no background pings.",
    )
    health_check_timeout: float = setting(5.0, _SECONDS, "Longest one ping may take.")
    validate_after_idle: float | None = setting(
        30.0,
        Range(float, least=0.0, optional=True),
        "A connection whose last proof of life is older than this is pinged before it is lent. "
        "0: always. None: never.",
    )
    reset: ResetLevel = setting(
        "full",
        Range(str, choices=get_args(ResetLevel)),
        "How clean a returned session is made; each driver documents what a level covers.",
        reload=Reload.NEW_POOL,
    )
    reset_timeout: float = setting(5.0, _SECONDS, "Longest one reset may take.")
    disconnect_timeout: float = setting(
        2.0, _SECONDS, "Longest one connection's polite close may take; then it is cut."
    )
    close_timeout: float | None = setting(
        10.0,
        Range(float, least=0.0, optional=True),
        "How long pool.close() waits for borrowers before it cuts them off. None: as long as it takes.",
    )
    connect_retries: int = setting(
        3,
        Range(int, least=0),
        "With no live connection left, failed attempts in a row (those under way together count once) "
        "before waiters are told, oldest first.",
    )
    retry_delay: float = setting(
        0.5,
        Range(float, least=0.0),
        "Ceiling of the first pause between failed attempts; it doubles with each failure, "
        "is drawn with full jitter, and is capped at recovery_timeout.",
    )
    max_connecting: int = setting(
        4, Range(int, least=1), "Most connection attempts, and most pings, at once."
    )
    max_waiting: int | None = setting(
        None,
        Range(int, least=0, optional=True),
        "Most borrowers that really wait (those waiting less the connections being opened); "
        "one more gets PoolExhausted at once. None: no limit.",
    )
    max_leases_per_connection: int = setting(
        1,
        Range(int, least=1),
        "Leases one connection serves at once; above 1 the pool is shared.",
        reload=Reload.NEW_POOL,
    )
    eager_init: bool = setting(
        False,
        Range(bool),
        "initialize() waits until min_size connections are open, and raises if they cannot be.",
    )
    leak_detection_threshold: float | None = setting(
        None,
        _SECONDS_OR_NONE,
        "A lease held longer than this is reported, with where it was taken. None: never.",
    )
    failure_threshold: int | None = setting(
        5,
        Range(int, least=1, optional=True),
        "Failed attempts in a row (those under way together count once) that open the circuit breaker. "
        "None: no breaker.",
    )
    success_threshold: int = setting(
        2, Range(int, least=1), "Successes (a connect, a ping, a clean lease) that close a half-open breaker."
    )
    recovery_timeout: float = setting(
        30.0, _SECONDS, "Longest pause between attempts while the backend is down, breaker open or not."
    )

    def __post_init__(self) -> None:
        for each in fields(self):
            takes: Range = each.metadata["range"]
            value = getattr(self, each.name)
            if not takes.holds(value):
                raise invalid(each.name, value, takes)
        if self.min_size > self.max_size:
            raise InvalidSettings(
                "min_size",
                self.min_size,
                f"must not be above max_size ({self.max_size}); lower min_size or raise max_size",
            )
        if self.max_idle is not None and self.max_idle < self.min_size:
            raise InvalidSettings(
                "max_idle",
                self.max_idle,
                f"must not be below min_size ({self.min_size}), which is kept open even when idle",
            )

    @classmethod
    def aggressive(cls, **changes: Any) -> Self:
        """Large and quick to answer: for bursts, where latency matters more than connections."""
        return cls(**({
            "min_size": 10, "max_size": 100, "max_idle": 20, "max_lifetime": 1800.0, "acquire_timeout": 5.0,
            "idle_timeout": 600.0, "connect_retries": 5, "retry_delay": 0.1, "validate_after_idle": None,
        } | changes))  # fmt: skip

    @classmethod
    def balanced(cls, **changes: Any) -> Self:
        """The middle way: for most services. Every connection is checked before it is lent."""
        return cls(**({
            "min_size": 5, "max_size": 20, "max_idle": 10, "max_lifetime": 3600.0, "acquire_timeout": 10.0,
            "idle_timeout": 300.0, "connect_retries": 3, "retry_delay": 0.5, "validate_after_idle": 0.0,
        } | changes))  # fmt: skip

    @classmethod
    def conservative(cls, **changes: Any) -> Self:
        """Small and patient: for a database with few connections to give. Checked before each lease."""
        return cls(**({
            "min_size": 1, "max_size": 5, "max_idle": 2, "max_lifetime": 7200.0, "acquire_timeout": 30.0,
            "idle_timeout": 1800.0, "connect_retries": 3, "retry_delay": 1.0, "validate_after_idle": 0.0,
        } | changes))  # fmt: skip

    def changed(self, **changes: Any) -> Self:
        """These settings with some fields replaced; validated like any other.

        Raises:
            InvalidSettings: a value is out of range, or there is no such field.
        """
        for name in changes:
            if name not in self.__dataclass_fields__:
                raise InvalidSettings(name, changes[name], unknown_field(name, self.__dataclass_fields__))
        return replace(self, **changes)


def unknown_field(name: str, known: Mapping[str, object]) -> str:
    """What to say of a field that does not exist, with the nearest name that does."""
    import difflib

    near = difflib.get_close_matches(name, known, n=1)
    return "is not a setting" + (f"; did you mean {near[0]!r}?" if near else "")


@dataclass(frozen=True, slots=True)
class Change:
    """What `pool.apply(settings)` did: fields changed in place, and fields that need a new pool.

    Each maps a field's name to its old and new value. While `needs_new_pool`
    is not empty, nothing of it was applied; what stands in `in_place` was.
    """

    in_place: Mapping[str, tuple[Any, Any]]
    needs_new_pool: Mapping[str, tuple[Any, Any]]

    def __bool__(self) -> bool:
        return bool(self.in_place or self.needs_new_pool)

    @property
    def cost(self) -> Reload | None:
        """The gentlest action that makes all of it true; None if nothing changed."""
        if self.needs_new_pool:
            return Reload.NEW_POOL
        return Reload.IN_PLACE if self.in_place else None


def difference(old: PoolSettings, new: PoolSettings) -> Change:
    """Which fields differ, sorted by what changing them costs."""
    costs: dict[Reload, dict[str, tuple[Any, Any]]] = {Reload.IN_PLACE: {}, Reload.NEW_POOL: {}}
    for each in fields(old):
        was, becomes = getattr(old, each.name), getattr(new, each.name)
        if was != becomes:
            costs[each.metadata["reload"]][each.name] = (was, becomes)
    return Change(in_place=costs[Reload.IN_PLACE], needs_new_pool=costs[Reload.NEW_POOL])


def setting_fields() -> tuple[Field[Any], ...]:
    """The fields of `PoolSettings`, for whoever documents or models them."""
    return fields(PoolSettings)
