"""What happens to the network in the middle of traffic: packets that are lost, late, or in the way."""

import random
from collections.abc import AsyncIterator

import pytest

from tests.drivers.backends import until
from tests.faults.subjects import Subject
from tests.faults.traffic import Traffic, pool_of, strangers
from tests.servers.proxy import Proxy, Way

pytestmark = pytest.mark.needs("is_mortal")


@pytest.fixture
async def network(subject: Subject) -> AsyncIterator[Proxy]:
    """What lies between the pool and the server."""
    async with Proxy(subject.server.port) as proxy:
        yield proxy


@pytest.mark.parametrize("ways", [(), (Way.TO_CLIENT,)], ids=["both-ways", "answers-only"])
async def test_a_network_that_stalls(subject: Subject, network: Proxy, ways: tuple[Way, ...]) -> None:
    """What was said in the meantime arrives when it heals, and nobody takes it for an answer of theirs."""
    async with pool_of(subject, through=network) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            network.stall(*ways)
            await traffic.suffers()
            network.heal()
            await traffic.flows()

        traffic.assert_unharmed()
        assert pool.status().healthy
        assert await strangers(subject, pool) == 0


async def test_a_network_that_forgets_its_connections(subject: Subject, network: Proxy) -> None:
    """New ones work: the pool finds out which are silent, without any help, and replaces them all."""
    async with pool_of(subject, through=network) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            lost = set(network.links)
            network.swallow()
            await traffic.suffers(1)
            await traffic.flows(5 * pool.settings.max_size)

            # The server does not hear that its clients have gone, the pool has long forgotten them.
            async def are_replaced() -> bool:
                return len(network.links - lost) * subject.on_one_socket >= pool.status().total

            await until(are_replaced)
            network.heal()
            await traffic.flows()

        traffic.assert_unharmed()
        assert pool.status().healthy
        assert await strangers(subject, pool) == 0


@pytest.mark.parametrize("door", ["refuse", "ignore"])
async def test_a_network_that_lets_nobody_in(subject: Subject, network: Proxy, door: str) -> None:
    """All connections are cut, and new ones refused, or taken and never answered."""
    async with pool_of(subject, through=network) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            getattr(network, door)()
            network.cut()
            await traffic.suffers()
            before = network.accepted
            network.heal()
            await traffic.flows()

        traffic.assert_unharmed()
        assert network.accepted > before
        assert pool.status().healthy
        assert await strangers(subject, pool) == 0


async def test_a_network_that_cuts_answers_in_the_middle(subject: Subject, network: Proxy) -> None:
    """After any number of bytes: half an answer is no answer, and no beginning of the next."""
    draw = random.Random(20261121)
    rounds = 15
    async with pool_of(subject, through=network, failure_threshold=None) as pool:
        async with Traffic(subject, pool) as traffic:
            for _ in range(rounds):
                await traffic.flows(10)
                for link in set(network.links):
                    link.cut(after=draw.randrange(1, 100))
            await traffic.flows()

        traffic.assert_unharmed()
        assert traffic.troubles
        assert network.accepted > rounds
        assert await strangers(subject, pool) == 0


async def test_a_network_that_closes_one_connection_and_then_all(subject: Subject, network: Proxy) -> None:
    """Politely, as a proxy does that has had enough of them."""
    async with pool_of(subject, through=network) as pool:
        async with Traffic(subject, pool) as traffic:
            await traffic.flows()
            first, *_ = old = sorted(network.links, key=lambda link: link.number)
            first.close()
            await traffic.flows()
            network.close()
            await traffic.flows()

        traffic.assert_unharmed()
        assert not set(old) & network.links
        assert await strangers(subject, pool) == 0


async def test_a_network_that_is_slow(subject: Subject, network: Proxy) -> None:
    """Within the timeouts it is nobody's fault: no error, no connection lost."""
    network.latency = 0.01
    slow = {"connect_timeout": 5.0, "reset_timeout": 5.0, "health_check_timeout": 5.0}

    async with pool_of(subject, through=network, **slow) as pool:
        async with Traffic(subject, pool, acquire_timeout=10.0, request_timeout=5.0) as traffic:
            await traffic.flows()

        traffic.assert_unharmed()
        assert not traffic.troubles
        assert pool.stats().discarded == 0
        assert await strangers(subject, pool) == 0
