"""What happens to gRPC alone: a server that serves so many calls at once, and refuses the rest."""

import asyncio
from collections.abc import Iterator

import pytest

from tests.drivers.backends import until_quiet
from tests.drivers.grpc_backend import Grpc
from tests.faults.subjects import GrpcSubject
from tests.faults.traffic import Traffic, pool_of, strangers
from tests.servers.grpc_server import GrpcServer

MOST_CALLS = 4


class BusySubject(GrpcSubject):
    """Calls take a while, so that there are several at once."""

    def __init__(self, server: GrpcServer) -> None:
        self.server, self.backend = server, Grpc(server, takes_ms=3)


@pytest.fixture(scope="module")
def busy() -> Iterator[BusySubject]:
    """A server that refuses the fifth call."""
    with GrpcServer(calls=MOST_CALLS) as server:
        yield BusySubject(server)


async def test_a_server_that_refuses_calls_costs_no_channel(busy: BusySubject) -> None:
    """Who is refused hears it; the channels stay, and new ones open: overload is no outage."""
    patient = {"connect_timeout": 10.0, "health_check_timeout": 10.0, "validate_after_idle": 0.0}
    async with pool_of(busy, max_size=6, max_leases_per_connection=2, **patient) as pool:
        async with Traffic(
            busy, pool, borrowers=4 * MOST_CALLS, acquire_timeout=10.0, request_timeout=10.0
        ) as traffic:
            await traffic.flows(400)
            await traffic.suffers()

        traffic.assert_unharmed()
        assert set(traffic.troubles) == {"AioRpcError"}
        assert pool.stats().discarded == 0
        assert pool.stats().open_failures == 0
        assert pool.status().healthy


async def test_a_pool_that_fits_the_server_is_refused_nothing(busy: BusySubject) -> None:
    """Its limits times its leases are the server's: the rest waits in the pool's queue."""
    # One call is left for the pool's own question.
    async with pool_of(busy, max_size=3, max_leases_per_connection=1, health_check_interval=30.0) as pool:
        async with Traffic(
            busy, pool, borrowers=4 * MOST_CALLS, acquire_timeout=10.0, request_timeout=10.0
        ) as traffic:
            await traffic.flows(400)

        traffic.assert_unharmed()
        assert not traffic.troubles
        await until_quiet(pool)
        assert await strangers(busy, pool) == 0


async def test_a_call_too_many_is_the_callers_to_hear(busy: BusySubject) -> None:
    """The server's own word reaches who asked."""
    async with pool_of(busy, max_leases_per_connection=20) as pool, pool.acquire() as conn:
        say = conn.unary_unary("/test.Echo/Say")
        asked = await asyncio.gather(*(say(b"200 x") for _ in range(3 * MOST_CALLS)), return_exceptions=True)

        refused = [each for each in asked if isinstance(each, BaseException)]
        assert {each.code().name for each in refused} == {"RESOURCE_EXHAUSTED"}  # type: ignore[attr-defined]
        assert len(asked) - len(refused) == MOST_CALLS
