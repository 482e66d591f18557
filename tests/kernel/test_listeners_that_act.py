"""A listener does to the pool whatever a program can do, at every kind of event: nothing is lost."""

import asyncio
import contextlib
from collections.abc import Callable
from typing import Any

import pytest

from millpond import ConnectionPool, EventKind, PoolError
from millpond.driver import Verdict
from millpond.events import Event
from millpond.status import PoolState
from millpond.testing.driver import ConnectionLost, Fail, ReadOnly
from tests.kernel.worlds import World, in_world


class Scene:
    """A world in which much happens, and a listener that acts once."""

    def __init__(self, world: World, kind: EventKind, act: Callable[["Scene"], object]) -> None:
        self.world = world
        self.pool = world.pool
        self.other: ConnectionPool[Any] = world.another_pool("other", max_size=2)
        self.kind = kind
        self.act = act
        self.has_acted = False
        self.leases: list[Any] = []
        self.people: list[asyncio.Task[None]] = []
        self.chores: list[asyncio.Task[Any]] = []
        self.pool.add_listener(self.listen)

    def listen(self, event: Event) -> None:
        """Act at the first event of the kind."""
        if event.kind is self.kind and not self.has_acted:
            self.has_acted = True
            with contextlib.suppress(PoolError):
                self.act(self)

    def chore(self, work: Any) -> None:
        """Something that takes longer than a listener may."""
        self.chores.append(asyncio.create_task(work))

    def later(self, delay: float, state: PoolState) -> None:
        """Resume the pool if it is still in this state."""

        async def resume() -> None:
            await asyncio.sleep(delay)
            if self.pool.state is state:
                self.pool.resume()

        self.chore(resume())

    async def borrow(self, seconds: float, error: Exception | None, timeout: float) -> None:
        """One of the people; others may give its lease back before it does."""
        with contextlib.suppress(PoolError):
            lease = await self.pool.lease(timeout)
            self.leases.append(lease)
            try:
                await asyncio.sleep(seconds)
            finally:
                if lease in self.leases:
                    self.leases.remove(lease)
                if lease.is_out:
                    if error is not None:
                        self.world.backend.kill(lease.connection)
                    lease.release(error)

    def comes(self, seconds: float, *, error: Exception | None = None, timeout: float = 10.0) -> None:
        """Somebody borrows."""
        self.people.append(asyncio.create_task(self.borrow(seconds, error, timeout)))

    async def play(self) -> None:
        """People come and go; a lease breaks, connects fail, one waits in vain, one stays for too long."""
        backend = self.world.backend
        backend.after_lease_script.append(Verdict.RESET)
        for number in range(6):
            if number == 4:
                backend.connect_script.extend([Fail(), Fail()])
            self.comes(0.01, error=ConnectionLost("broken") if number == 2 else None)
            await asyncio.sleep(0.002 * (number % 2))
        self.comes(0.01, timeout=0.003)
        await asyncio.sleep(0.3)
        if self.pool.state is PoolState.OPEN:
            self.pool.clear()
        self.comes(1.0)
        await asyncio.sleep(3)  # pings, retirements
        assert all(task.done() for task in self.people)
        await asyncio.gather(*self.people, *self.chores, return_exceptions=True)


def acquire_at_once(scene: Scene) -> None:
    """Without waiting: a listener cannot."""
    borrowing = scene.pool.lease(timeout=0)
    try:
        borrowing.send(None)
    except StopIteration as given:
        asyncio.get_running_loop().call_soon(given.value.release)


def release_one(scene: Scene) -> None:
    """The lease of somebody else."""
    if scene.leases:
        scene.leases.pop().release()


def detach_one(scene: Scene) -> None:
    """The connection of somebody else."""
    for lease in scene.leases:
        scene.world.driver.terminate(scene.pool.detach(lease.connection))
        break


def report_one(scene: Scene) -> None:
    """As a failover."""
    for lease in scene.leases:
        scene.pool.report(lease.connection, ReadOnly("not the primary"))
        break


def pause_for_a_while(scene: Scene) -> None:
    """And refuse."""
    scene.pool.pause("refuse")
    scene.later(0.05, PoolState.PAUSED)


def drain_for_a_while(scene: Scene) -> None:
    """And resume."""
    scene.chore(scene.pool.drain(timeout=0.2))
    scene.later(0.1, PoolState.DRAINING)


def kill_everything(scene: Scene) -> None:
    """The server drops all connections."""
    for conn in list(scene.world.backend.live):
        scene.world.backend.kill(conn)


def cancel_everybody(scene: Scene) -> None:
    """All who borrow, or wait to."""
    for task in scene.people:
        task.cancel()


def change(**settings: Any) -> Callable[[Scene], object]:
    """Apply other settings."""
    return lambda scene: scene.pool.apply(scene.pool.settings.changed(**settings))


ACTS: dict[str, Callable[[Scene], object]] = {
    "acquires": acquire_at_once,
    "releases": release_one,
    "detaches": detach_one,
    "reports": report_one,
    "clears": lambda scene: scene.pool.clear(),
    "clears slowly": lambda scene: scene.pool.clear(spread=0.5),
    "pauses": pause_for_a_while,
    "drains": drain_for_a_while,
    "closes": lambda scene: scene.chore(scene.pool.close()),
    "breaks off": lambda scene: scene.pool._life.break_off(),
    "initializes": lambda scene: scene.chore(scene.pool.initialize()),
    "checks": lambda scene: scene.chore(scene.pool.check()),
    "hands over": lambda scene: scene.pool._hand_over_waiters(scene.other),
    "bequeaths": lambda scene: scene.pool._bequeath(scene.other),
    "kills": kill_everything,
    "cancels": cancel_everybody,
    "grows": change(max_size=5),
    "shrinks": change(max_size=1, min_size=0),
    "keeps fewer": change(max_idle=1, min_size=0),
    "ages": change(max_lifetime=0.01, max_uses=1),
    "validates": change(validate_after_idle=0.0),
    "breaks sooner": change(failure_threshold=1),
}


@pytest.mark.parametrize("kind", EventKind)
@pytest.mark.parametrize("name", ACTS)
def test_a_listener_may_do_anything_at_any_event(name: str, kind: EventKind) -> None:
    """The auditor looks on; everybody ends, and nothing is left of the pools."""
    scenes: list[Scene] = []

    async def story(world: World) -> None:
        scenes.append(Scene(world, kind, ACTS[name]))
        await scenes[0].play()

    in_world(
        story, max_size=2, min_size=1, failure_threshold=2, retry_delay=0.01, recovery_timeout=0.1,
        health_check_interval=1.0, leak_detection_threshold=0.5,
    )  # fmt: skip

    assert scenes[0].has_acted
