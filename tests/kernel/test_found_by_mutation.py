"""What a kernel with a planted fault got away with: promises that no other test asked for."""

import asyncio
import os
from collections.abc import Iterator

import pytest

from millpond import ConnectionPool, PoolSettings, PoolTimeout, ReleaseError
from tests.kernel.test_one_loop_one_process import SocketDriver
from tests.kernel.worlds import World, in_world


@pytest.fixture
def driver() -> Iterator[SocketDriver]:
    """A backend at the other end of socket pairs."""
    driver = SocketDriver()
    yield driver
    driver.hang_up()


@pytest.mark.parametrize("first", ["release", "discard", "async with"])
@pytest.mark.parametrize("second", ["release", "discard"])
def test_a_lease_that_was_given_back_is_over(first: str, second: str) -> None:
    """To give it back again is a mistake, whoever has the connection by now; it gives nothing any more."""

    async def story(world: World) -> None:
        lease = await world.pool.lease()
        if first == "async with":
            async with lease:
                pass
        else:
            getattr(lease, first)()
        async with world.pool.acquire():
            with pytest.raises(ReleaseError, match="over already"):
                getattr(lease, second)()
            with pytest.raises(ReleaseError, match="this lease is over"):
                _ = lease.connection
        assert world.pool.stats().hold_seconds.count == 2

    in_world(story, max_size=1)


def test_each_of_those_who_wait_has_a_deadline_of_its_own() -> None:
    """Ten with different patience, in no order, nobody else comes by: each hears at its own time."""
    patience = [5.0, 1.0, 9.0, 2.0, 7.0, 3.0, 8.0, 4.0, 6.0, 0.5]

    async def story(world: World) -> None:
        async def give_up(seconds: float) -> None:
            with pytest.raises(PoolTimeout):
                await world.pool.acquire(timeout=seconds)
            assert world.now() - began == pytest.approx(seconds, abs=0.001)

        async with world.pool.acquire():
            began = world.now()
            await asyncio.gather(*(give_up(seconds) for seconds in patience))

    in_world(story, max_size=1)


def test_a_forked_child_cannot_speak_on_an_inherited_connection(driver: SocketDriver) -> None:
    """Whatever a finalizer in the child writes goes nowhere: the descriptor leads to nothing there."""

    async def parent() -> None:
        pool = ConnectionPool(driver, settings=PoolSettings(min_size=0, max_size=1))
        async with pool.acquire() as conn:
            pass
        child = os.fork()
        if child == 0:
            os._exit(os.write(conn.fileno(), b"from the child"))
        _, status = await asyncio.to_thread(os.waitpid, child, 0)
        assert os.waitstatus_to_exitcode(status) == len(b"from the child")
        with pytest.raises(BlockingIOError):
            driver.peers[0].recv(100)
        async with pool.acquire() as again:
            assert again is conn
        await pool.close()

    asyncio.run(parent())
