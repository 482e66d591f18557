"""What a backend and the others do while an operation is under attack."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from millpond.driver import Verdict
from millpond.events import Event, EventKind
from millpond.status import PoolState
from millpond.testing.driver import BackendDown, Dawdle, Fail, Hang, Lose
from tests.kernel.stage import Scene, Stage


@dataclass(frozen=True)
class Situation:
    """One of them.

    Attributes:
        name: in words.
        prepare: brings it about; what is to happen later it leaves to tasks.
        scene: what is fixed before.
        fails: borrowers may be refused here, by design.
        reorders: who was handed a connection that died before it could run has to ask again; meanwhile
            the next one may have been served.
    """

    name: str
    prepare: Callable[[Stage], Awaitable[None]]
    scene: Scene = field(default_factory=Scene)
    fails: bool = False
    reorders: bool = False

    @property
    def is_shared(self) -> bool:
        """Its pools are shared ones."""
        return self.scene.settings.get("max_leases_per_connection", 1) > 1


SITUATIONS: list[Situation] = []


def situation(
    name: str,
    *,
    fails: bool = False,
    reorders: bool = False,
    limit: int | None = None,
    on_connect: Callable[[Any], Any] | None = None,
    latency: float = 0.001,
    **settings: Any,
) -> Callable[[Callable[[Stage], Awaitable[None]]], Callable[[Stage], Awaitable[None]]]:
    """Enter what the decorated function brings about in the list."""
    scene = Scene(settings, on_connect, limit, latency)

    def enter(prepare: Callable[[Stage], Awaitable[None]]) -> Callable[[Stage], Awaitable[None]]:
        SITUATIONS.append(Situation(name, prepare, scene, fails, reorders))
        return prepare

    return enter


async def _warm(stage: Stage, *, pool: Any = None) -> Any:
    """Have one idle connection; returns it."""
    conn = await stage.hold(0.0, pool=pool)
    await asyncio.wait(stage.people)
    return conn


def _break(conn: Any) -> None:
    conn.backend.kill(conn)
    raise ConnectionResetError("the holder's connection broke")


@situation("one idle connection")
async def _one_idle(stage: Stage) -> None:
    await _warm(stage)


@situation("nothing open, connects take their time")
async def _slow_connect(stage: Stage) -> None:
    stage.backend.connects = Dawdle(0.01)


@situation("nothing open, connects take no time at all", latency=0.0, max_size=2)
async def _instant_connect(stage: Stage) -> None:
    pass


@situation("two attempts to connect fail")
async def _failing_connect(stage: Stage) -> None:
    stage.backend.connect_script.extend([Fail(), Fail(BackendDown, after=0.01)])


@situation("a connect hangs until its timeout", connect_timeout=0.05)
async def _hanging_connect(stage: Stage) -> None:
    stage.backend.connect_script.append(Hang())


@situation("a connect hangs and answers its cancellation with a connection", connect_timeout=0.05)
async def _stubborn_connect(stage: Stage) -> None:
    stage.backend.connect_script.append(Hang(ignore=0, finishes=True))


@situation("a connect under way while the only connection is out", max_size=2)
async def _connect_and_holder(stage: Stage) -> None:
    await stage.hold(0.005)
    stage.backend.connects = Dawdle(0.01)


@situation("waiting behind holders", max_size=2)
async def _holders(stage: Stage) -> None:
    await stage.hold(0.01)
    await stage.hold(0.02)


@situation("waiting behind a holder whose connection breaks")
async def _breaking_holder(stage: Stage) -> None:
    await stage.hold(0.01, then=_break)


def _kill_what_is_handed_over(stage: Stage, count: int) -> None:
    """Listeners hear of a hand-over before its borrower runs: the connection dies in between."""
    left = [None] * count

    def listen(event: Event) -> None:
        if event.kind is EventKind.LENT and event.seconds and left:
            left.pop()
            stage.backend.kill(stage.pool._ledger.slots[event.connection].conn)

    stage.pool.add_listener(listen)


@situation("a connection dies as it is handed over", reorders=True)
async def _dies_in_hand_over(stage: Stage) -> None:
    await stage.hold(0.01)
    _kill_what_is_handed_over(stage, 1)


@situation("two connections die as they are handed over", reorders=True, max_size=2)
async def _two_die_in_hand_over(stage: Stage) -> None:
    await stage.hold(0.01)
    await stage.hold(0.01)
    _kill_what_is_handed_over(stage, 2)


@situation("an idle connection that must answer a ping first", validate_after_idle=0.0)
async def _ping_first(stage: Stage) -> None:
    await _warm(stage)
    stage.backend.pings = Dawdle(0.01)


@situation("a ping that fails, and one that hangs", validate_after_idle=0.0, max_size=2)
async def _bad_pings(stage: Stage) -> None:
    await stage.hold(0.0)
    await stage.hold(0.0)
    await asyncio.wait(stage.people)
    stage.backend.ping_script.extend([Fail(), Hang()])


@situation("a reset under way")
async def _reset(stage: Stage) -> None:
    stage.backend.resets = Dawdle(0.01)
    stage.backend.after_lease_script.append(Verdict.RESET)
    await _warm(stage)


@situation("a reset that hangs until its timeout", reset_timeout=0.08)
async def _hanging_reset(stage: Stage) -> None:
    stage.backend.reset_script.append(Hang())
    stage.backend.after_lease_script.append(Verdict.RESET)
    await _warm(stage)


@situation("a close under way in the only place")
async def _closing(stage: Stage) -> None:
    await _warm(stage)
    stage.backend.closes = Dawdle(0.01)
    stage.pool.clear()


@situation("a close that hangs until its timeout", disconnect_timeout=0.05)
async def _hanging_close(stage: Stage) -> None:
    await _warm(stage)
    stage.backend.close_script.append(Hang())
    stage.pool.clear()


@situation("used up connections are closed when they come back", max_uses=1)
async def _used_up(stage: Stage) -> None:
    await stage.hold(0.005)
    stage.backend.closes = Dawdle(0.005)


@situation("the backend is down and comes back", connect_retries=100, failure_threshold=None)
async def _down(stage: Stage) -> None:
    stage.backend.down()
    stage.later(0.08, stage.backend.up)


@situation("the breaker is open", fails=True, failure_threshold=2)
async def _breaker_open(stage: Stage) -> None:
    stage.backend.connects = Fail()
    stage.later(0.3, lambda: setattr(stage.backend, "connects", Dawdle(0.01)))


@situation("the backend dies under a holder", fails=True, failure_threshold=2)
async def _dies_under_holder(stage: Stage) -> None:
    await stage.hold(0.01, then=_break)
    stage.later(0.005, stage.backend.down)
    stage.later(0.2, stage.backend.up)


@situation("a shared pool", max_leases_per_connection=2, max_size=2)
async def _shared(stage: Stage) -> None:
    for seconds in (0.004, 0.008, 0.012, 0.016):
        await stage.hold(seconds)


@situation("a shared pool whose connection dies", max_leases_per_connection=3)
async def _shared_dies(stage: Stage) -> None:
    for seconds in (0.01, 0.015):
        await stage.hold(seconds)
    conn = await stage.hold(0.02)
    stage.later(0.01, lambda: stage.backend.kill(conn))


@situation("another pool has the allowance's only place", limit=1)
async def _allowance_taken(stage: Stage) -> None:
    await stage.hold(0.01, pool=stage.other)


@situation("another pool wants the places of the allowance too", limit=2, max_size=2)
async def _allowance_wanted(stage: Stage) -> None:
    await stage.hold(0.005)
    await stage.hold(0.01, pool=stage.other)
    for seconds in (0.004, 0.003):
        stage.spawn(stage.hold(seconds, pool=stage.other), name="wants a place")
    await asyncio.sleep(0)


def _hand_over(stage: Stage) -> None:
    stage.pool._hand_over_waiters(stage.other)


@situation("waiters are handed over to another pool", limit=1)
async def _handed_over(stage: Stage) -> None:
    await stage.hold(0.01)
    stage.later(0.005, lambda: _hand_over(stage))


@situation("waiters are handed over as a connection comes back", limit=2, max_size=1)
async def _handed_over_at_return(stage: Stage) -> None:
    await stage.hold(0.01)
    stage.later(0.01, lambda: _hand_over(stage))


async def _greet(conn: Any) -> None:
    await conn.request("set up")
    await asyncio.sleep(0.005)


@situation("the on_connect hook is running", on_connect=_greet)
async def _hook(stage: Stage) -> None:
    pass


async def _greet_sulkily(conn: Any) -> None:
    await asyncio.sleep(0.002)
    if conn.number <= 2:
        raise ConnectionResetError("the hook failed")


@situation("the on_connect hook fails at first", on_connect=_greet_sulkily)
async def _sulky_hook(stage: Stage) -> None:
    pass


def _resume(stage: Stage) -> None:
    if stage.pool.state in (PoolState.PAUSED, PoolState.DRAINING):
        stage.pool.resume()


@situation("the pool is paused for a while")
async def _paused(stage: Stage) -> None:
    await stage.hold(0.01)
    stage.pool.pause()
    stage.later(0.02, lambda: _resume(stage))


@situation("somebody closes the pool", fails=True, max_size=2)
async def _closed_meanwhile(stage: Stage) -> None:
    await stage.hold(0.01)
    stage.backend.connects = Dawdle(0.02)
    stage.later(0.005, lambda: stage.spawn(stage.pool.close(), name="closes the pool"))


@situation("somebody drains the pool", max_size=2)
async def _drained_meanwhile(stage: Stage) -> None:
    await stage.hold(0.01)
    stage.backend.connects = Dawdle(0.02)
    stage.later(0.005, lambda: stage.spawn(stage.pool.drain(), name="drains the pool"))
    stage.later(0.03, lambda: _resume(stage))


@situation("the pool is cleared under a connect")
async def _cleared(stage: Stage) -> None:
    stage.backend.connects = Dawdle(0.01)
    stage.later(0.005, stage.pool.clear)


@situation("connections are lost soon after they open", max_size=2)
async def _losing(stage: Stage) -> None:
    stage.backend.connect_script.extend([Lose(0.002), Lose(0.0005, silently=True)])


@situation("the pool shrinks under its holders", max_size=3)
async def _shrinks(stage: Stage) -> None:
    for seconds in (0.004, 0.008, 0.012):
        await stage.hold(seconds)
    stage.later(0.002, lambda: stage.pool.resize(max_size=1))
