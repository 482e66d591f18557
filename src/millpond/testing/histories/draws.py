"""What a history is made of, drawn from its seed: settings, behaviours, hooks, listeners."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from millpond.settings import PoolSettings
from millpond.testing.driver import (
    HANG_FOR_EVER,
    BackendDown,
    BackendError,
    Dawdle,
    Fail,
    Hang,
    Lose,
    ReadOnly,
    ScriptedConnection,
    TooManyClients,
)

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from millpond.testing.driver import Behaviour

PAUSES: Final = (0, 0, 0, 0, 0.001, 0.001, 0.01, 0.05)
"""How long borrowers and operators pause, seconds."""
TIMEOUTS: Final = (0, 0.02, 0.1, 0.5, 2.0)
"""How long borrowers wait who say so, seconds."""


def settings(rng: random.Random, *, leases: int) -> PoolSettings:
    """Any kind of pool whose connections serve `leases` at once; short times, so that a history is short."""
    max_size = rng.randrange(1, 5)
    min_size = rng.choice((0, 0, 1, min(2, max_size)))
    return PoolSettings(
        min_size=min_size, max_size=max_size, max_idle=rng.choice((None, None, max(min_size, 1))),
        max_leases_per_connection=leases, max_uses=rng.choice((None, None, None, 3)),
        acquire_timeout=rng.choice((0.5, 2.0, None)), max_waiting=rng.choice((None, None, None, 0, 2)),
        connect_timeout=rng.choice((0.3, 1.0)), max_connecting=rng.choice((1, 2, 4)),
        idle_timeout=rng.choice((None, 0.5, 3.0)), max_lifetime=rng.choice((None, None, 1.0, 30.0)),
        health_check_interval=rng.choice((None, 0.4, 5.0)), health_check_timeout=0.3,
        validate_after_idle=rng.choice((None, None, 0.0, 0.02, 1.0)),
        reset=rng.choice(("none", "rollback", "full", "full")), reset_timeout=0.3,
        disconnect_timeout=0.3, close_timeout=rng.choice((0.0, 1.0)),
        connect_retries=rng.choice((0, 1, 3)), retry_delay=rng.choice((0.002, 0.02, 0.1)),
        recovery_timeout=rng.choice((0.3, 1.0)), failure_threshold=rng.choice((None, 1, 2, 5)),
        success_threshold=rng.choice((1, 2)), eager_init=rng.random() < 0.25,
        leak_detection_threshold=rng.choice((None, None, 0.5)),
    )  # fmt: skip


def plain(settings: PoolSettings) -> PoolSettings:
    """The same, without what closes the short way of leases for good."""
    return settings.changed(max_idle=None)


def other_settings(rng: random.Random, old: PoolSettings) -> PoolSettings:
    """A few other values for a pool that runs; what needs a new pool may be among them."""
    new = settings(rng, leases=old.max_leases_per_connection)
    names = sorted(rng.sample(sorted(PoolSettings.__dataclass_fields__), 4))
    changes = {name: getattr(new, name) for name in names}
    if rng.random() < 0.2:
        changes["failure_threshold"] = rng.choice((None, 1))
    sizes = {"min_size": new.min_size, "max_size": new.max_size, "max_idle": new.max_idle}
    if sizes.keys() & changes.keys():
        changes |= sizes
    return old.changed(**changes)


def trouble_with_connect(rng: random.Random) -> Behaviour:
    """What may happen to an attempt to connect."""
    return rng.choice((
        Fail(BackendDown), Fail(lambda: TooManyClients("full")), Fail(BackendDown, after=0.2),
        Fail(BackendDown, permanent=True), Hang(), Hang(ignore=1), Hang(finishes=True), HANG_FOR_EVER,
        Dawdle(0.2), Dawdle(0.05), Dawdle(0.5, stubborn=True), Lose(0.01), Lose(0.05, silently=True),
    ))  # fmt: skip


def trouble_with_call(rng: random.Random) -> Behaviour:
    """What may happen to a ping, a reset or a close."""
    return rng.choice((
        Fail(BackendDown), Hang(), Hang(ignore=1), Hang(finishes=True), HANG_FOR_EVER, Dawdle(0.03),
        Dawdle(0.2), Dawdle(0.5, stubborn=True), Lose(0.01), Lose(0.0, silently=True),
    ))  # fmt: skip


def trouble_with_request(rng: random.Random) -> Behaviour:
    """What may happen to a borrower's request."""
    return rng.choice((Fail(lambda: BackendError("no")), Hang(), Dawdle(0.3), Lose(0.0), Lose(0.01)))


def error(rng: random.Random) -> Exception:
    """What a borrower may report, or give its lease back with."""
    return rng.choice((ValueError("mine"), ReadOnly("not the primary"), BackendDown("gone")))


def hook(rng: random.Random, is_rough: Callable[[], bool]) -> Callable[[Any], Any] | None:
    """A hook for fresh connections: mostly none."""

    def plain(conn: ScriptedConnection) -> None:
        conn.variables["prepared"] = True
        conn.mark_clean()

    async def waits(conn: ScriptedConnection) -> None:
        await conn.set("prepared", True)
        conn.mark_clean()

    async def fails_at_times(conn: ScriptedConnection) -> None:
        await conn.request("are you well")
        if is_rough() and rng.random() < 0.2:
            raise ValueError("the hook is not content")

    return rng.choice((None, None, None, None, plain, waits, fails_at_times))
