"""What happens to a server in the middle of traffic: errors in time, never another's answer, and it heals."""

import asyncio

import pytest

from tests.drivers.backends import until
from tests.faults.subjects import MOST_CONNECTIONS, Subject
from tests.faults.traffic import SETTLE_S, Traffic, pool_of, strangers

pytestmark = pytest.mark.needs("is_mortal")


async def test_a_server_that_is_killed_and_comes_back(subject: Subject) -> None:
    """Errors while it is down, answers by themselves once it is back."""
    async with pool_of(subject) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            await asyncio.to_thread(subject.server.kill)
            await traffic.suffers()
            await asyncio.to_thread(subject.server.start)
            await traffic.flows()

        traffic.assert_unharmed()
        assert pool.status().healthy
        assert await strangers(subject, pool) == 0


async def test_a_server_that_freezes_and_thaws(subject: Subject) -> None:
    """Connections stay open, new ones are taken, nobody answers; afterwards all is as before."""
    async with pool_of(subject) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            await asyncio.to_thread(subject.server.freeze)
            await traffic.suffers()
            await asyncio.to_thread(subject.server.thaw)
            await traffic.flows()

        traffic.assert_unharmed()
        assert pool.status().healthy
        assert await strangers(subject, pool) == 0


@pytest.mark.needs("ends_sessions")
async def test_a_server_that_ends_one_session_and_then_all(subject: Subject) -> None:
    """Each is replaced, whoever has it at that moment."""
    async with pool_of(subject) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            (one, *_) = await subject.numbers()
            await subject.end(one)
            await traffic.flows()
            rest = await subject.numbers()
            await subject.end_all()
            await traffic.flows()

        traffic.assert_unharmed()
        assert await strangers(subject, pool) == 0
        assert one not in rest
        assert not set(rest) & set(await subject.numbers())
        assert pool.stats().discarded > 0


@pytest.mark.needs("is_limited")
async def test_a_server_that_runs_out_of_connections(subject: Subject) -> None:
    """A pool that wants more than there are shares what it gets: nobody is refused, nobody is left out."""
    wanted = MOST_CONNECTIONS + 10
    everybody = wanted + 10

    greedy = {"max_size": wanted, "max_connecting": 10, "connect_timeout": 3.0, "failure_threshold": None}
    subject.limit()
    async with pool_of(subject, **greedy) as pool:
        async with Traffic(
            subject, pool, borrowers=everybody, acquire_timeout=SETTLE_S, request_timeout=SETTLE_S
        ) as traffic:

            async def is_refused() -> bool:
                return pool.stats().open_failures > 0

            await until(is_refused)
            await traffic.flows(5 * everybody)

        traffic.assert_unharmed()
        assert not traffic.troubles
        assert pool.stats().peak_busy < wanted
        pool.resize(max_size=MOST_CONNECTIONS // 2)  # or there might be no place for who asks the server
        assert await strangers(subject, pool) == 0
