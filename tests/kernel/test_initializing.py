"""initialize(): lazily, eagerly, half-way, and with a hook for every fresh connection."""

import asyncio

import pytest

from millpond import ConnectFailed, ConnectionPool, PoolSettings, PoolTimeout
from millpond.errors import TimeoutCause
from millpond.status import PoolState
from millpond.testing.driver import HANG_FOR_EVER, BackendDown, Dawdle, Fail, Hang, ScriptedConnection
from tests.kernel.worlds import SEEDS, World, in_world


def pool_with_hook(world: World, hook: object, **settings: object) -> ConnectionPool[ScriptedConnection]:
    """A pool whose fresh connections go through `hook`."""
    pool = ConnectionPool(
        world.driver,
        settings=PoolSettings(**{"min_size": 0, "max_size": 1, **settings}),  # type: ignore[arg-type]
        on_connect=hook,  # type: ignore[arg-type]
    )
    world.auditor.add(pool)
    return pool


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize(
    "trouble",
    [
        pytest.param(Fail(permanent=True), id="fails for good"),
        pytest.param(Hang(), id="hangs"),
        pytest.param(HANG_FOR_EVER, id="ignores its cancellation"),
    ],
)
def test_an_initialize_that_fails_half_way_leaves_nothing_behind(trouble: Fail | Hang, seed: int) -> None:
    """Two of three were open: they are closed, attempts and timers are gone, and it may be repeated."""

    async def story(world: World) -> None:
        world.backend.connects = trouble
        world.backend.connect_script.extend([Dawdle(0.01), Dawdle(0.02)])
        with pytest.raises((ConnectFailed, PoolTimeout)):
            await world.pool.initialize(timeout=20)
        assert world.backend.live == []
        assert world.pool.status().total == 0
        opened, attempts = world.backend.opened, len(world.backend.attempt_times)
        await asyncio.sleep(120)
        assert (world.backend.opened, len(world.backend.attempt_times)) == (opened, attempts)
        world.backend.connects = Dawdle(0.01)
        world.backend.unhang()
        await world.pool.initialize()
        assert world.pool.status().idle == 3

    in_world(story, seed=seed, min_size=3, max_size=3, eager_init=True, connect_timeout=1.0)


@pytest.mark.parametrize("seed", SEEDS)
@pytest.mark.parametrize("turns", range(8))
def test_an_initialize_that_is_cancelled_leaves_nothing_behind(turns: int, seed: int) -> None:
    """At any turn; it may be repeated."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.001)
        opening = asyncio.create_task(world.pool.initialize())
        for _ in range(turns):
            await asyncio.sleep(0.0005)
        opening.cancel()
        await asyncio.wait([opening])
        if opening.cancelled():
            await asyncio.sleep(2)
            assert world.backend.live == []
        await world.pool.initialize()
        assert world.pool.status().idle == 3

    in_world(story, seed=seed, min_size=3, max_size=3, max_connecting=1, eager_init=True)


def test_an_initialize_that_fails_takes_nothing_from_who_borrowed_meanwhile() -> None:
    """What is on loan stays; the pool stays open for it."""

    async def story(world: World) -> None:
        world.backend.max_clients = 1
        opening = asyncio.create_task(world.pool.initialize())
        async with world.pool.acquire() as conn:
            with pytest.raises(ConnectFailed):
                await opening
            await conn.request("still mine")

    in_world(story, min_size=2, max_size=2, eager_init=True)


def test_a_lazy_initialize_waits_for_nothing() -> None:
    """Not even while the backend is down; the floor comes when it can."""

    async def story(world: World) -> None:
        world.backend.down()
        await world.pool.initialize()
        assert world.now() == 0
        world.backend.up()
        await asyncio.sleep(31)
        assert world.pool.status().idle == 2

    in_world(story, min_size=2, max_size=2)


@pytest.mark.parametrize("kind", ["sync", "async"])
@pytest.mark.parametrize("seed", SEEDS)
def test_a_hook_that_raises_costs_the_connection_and_counts_as_a_failed_attempt(kind: str, seed: int) -> None:
    """It is terminated, never lent; the next attempt may do better."""
    seen: list[ScriptedConnection] = []

    async def story(world: World) -> None:
        def hook(conn: ScriptedConnection) -> None:
            seen.append(conn)
            if len(seen) < 3:
                raise ValueError("this one cannot be prepared")

        async def slow_hook(conn: ScriptedConnection) -> None:
            await asyncio.sleep(0.1)
            hook(conn)

        pool = pool_with_hook(world, hook if kind == "sync" else slow_hook)
        async with pool.acquire() as conn:
            assert conn is seen[2]
        assert pool.stats().open_failures == 2
        await pool.close()
        assert world.backend.terminated == 2

    in_world(story, seed=seed)


def test_a_hook_that_hangs_ends_with_the_connect_timeout() -> None:
    """It belongs to the connect; its connection is terminated."""

    async def story(world: World) -> None:
        async def hook(_conn: ScriptedConnection) -> None:
            await asyncio.sleep(3600)

        pool = pool_with_hook(world, hook, connect_timeout=1.0, connect_retries=1)
        with pytest.raises(ConnectFailed):
            await pool.acquire(timeout=None)
        assert world.now() < 4
        await pool.close()

    in_world(story)


def test_a_hook_that_always_raises_is_told_as_the_reason() -> None:
    """The borrower hears what the hook said."""

    async def story(world: World) -> None:
        def hook(_conn: ScriptedConnection) -> None:
            raise LookupError("no such schema")

        pool = pool_with_hook(world, hook)
        with pytest.raises(ConnectFailed, match="no such schema"):
            await pool.acquire(timeout=None)
        await pool.close()

    in_world(story)


def test_what_a_hook_sets_is_part_of_the_clean_session() -> None:
    """A reset brings back what the hook made."""

    async def story(world: World) -> None:
        async def hook(conn: ScriptedConnection) -> None:
            await conn.set("timezone", "UTC")
            conn.mark_clean()

        pool = pool_with_hook(world, hook)
        async with pool.acquire() as conn:
            await conn.set("timezone", "local")
        async with pool.acquire() as conn:
            answer = await conn.request("x")
            assert dict(answer.variables) == {"timezone": "UTC"}
        await pool.close()

    in_world(story)


def test_two_initializes_at_once_open_one_floor() -> None:
    """Both return when it is there."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(0.1)
        await asyncio.gather(world.pool.initialize(), world.pool.initialize(), world.borrow())
        assert world.backend.opened == 3

    in_world(story, min_size=3, max_size=3, eager_init=True)


def test_an_eager_initialize_waits_out_a_short_outage() -> None:
    """connect_retries failures in a row are not the end of it."""

    async def story(world: World) -> None:
        world.backend.connect_script.extend([Fail(BackendDown()), Fail(BackendDown())])
        await world.pool.initialize()
        assert world.pool.status().idle == 1

    in_world(story, min_size=1, max_size=1, eager_init=True)


def test_an_eager_initialize_of_many_waits_out_a_short_outage_too() -> None:
    """Attempts that fail together are one of the connect_retries failures in a row."""

    async def story(world: World) -> None:
        world.backend.connect_script.extend([Fail()] * 4)
        await world.pool.initialize()
        assert world.pool.status().idle == 4

    in_world(story, min_size=4, max_size=4, eager_init=True)


def test_an_initialize_of_a_pool_in_use_takes_nothing_when_it_fails() -> None:
    """What served others before is theirs: the next borrower has no need to connect."""

    async def story(world: World) -> None:
        await world.pool.initialize()
        async with world.pool.acquire() as conn:
            world.backend.connects = Fail()
            world.backend.kill(conn)
        with pytest.raises(PoolTimeout):
            await world.pool.initialize(timeout=0.1)

        assert world.pool.status().idle == 1

    in_world(story, min_size=2, max_size=2, eager_init=True)


async def give_up_on(world: World) -> asyncio.Task[None]:
    """Of three who initialize, one is cancelled, one has no more time; returns the third, who has 3 s."""
    cancelled = asyncio.create_task(world.pool.initialize())
    hurried = asyncio.create_task(world.pool.initialize(timeout=0.5))
    patient = asyncio.create_task(world.pool.initialize(timeout=3.0))
    await asyncio.sleep(0.1)
    cancelled.cancel()
    with pytest.raises(PoolTimeout):
        await hurried
    return patient


@pytest.mark.parametrize("seed", SEEDS)
def test_an_initialize_that_gives_up_does_not_end_that_of_another(seed: int) -> None:
    """The attempts go on, and who waited longer gets the floor."""

    async def story(world: World) -> None:
        world.backend.connects = Dawdle(1.0)
        await (await give_up_on(world))

        assert (world.pool.status().idle, world.backend.opened) == (2, 2)

    in_world(story, seed=seed, min_size=2, max_size=2, eager_init=True)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_several_who_initialize_in_vain_the_last_leaves_nothing_behind(seed: int) -> None:
    """Then the pool is as new."""

    async def story(world: World) -> None:
        world.backend.connects = Hang()
        world.backend.connect_script.append(Dawdle(0.2))
        patient = await give_up_on(world)
        assert world.pool.status().idle == 1
        with pytest.raises(PoolTimeout):
            await patient

        assert (world.pool.state, world.pool.status().total) == (PoolState.NEW, 0)

    in_world(story, seed=seed, min_size=2, max_size=2, eager_init=True)


def test_an_initialize_waits_for_the_floor_of_a_paused_pool() -> None:
    """Which is filled as ever: only lending is paused."""

    async def story(world: World) -> None:
        world.pool.pause()
        await world.pool.initialize()

        assert world.pool.status().idle == 2

    in_world(story, min_size=2, max_size=2, eager_init=True)


def test_an_initialize_of_a_draining_pool_says_that_it_is_draining() -> None:
    """Nothing is opened there: no backend is to blame, and nobody waits for ever."""

    async def story(world: World) -> None:
        await world.pool.drain()
        with pytest.raises(PoolTimeout) as caught:
            await world.pool.initialize()

        assert caught.value.cause is TimeoutCause.DRAINING

    in_world(story, min_size=2, max_size=2, eager_init=True)
