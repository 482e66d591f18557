"""Random sequences of reloads, valid, invalid and in conflict, while borrowers come and servers fail."""

import asyncio
import random
from collections import Counter
from typing import Any, Final

import pytest

from millpond.errors import CircuitOpen, ConfigError, ConnectFailed, PoolClosed, PoolError, PoolTimeout
from millpond.registry import ReloadResult, UnknownConnection
from millpond.registry.model import ConnectionConfig
from millpond.testing.driver import BackendError, Dawdle, Hang, Succeed
from tests import summary
from tests.registry.worlds import PASSWORDS, SERVERS, World, configured, in_world

BATCHES: Final = 20
SEQUENCES: Final = 50
"""Sequences in a batch; with `BATCHES`, a thousand."""
NAMES: Final = ("a", "b", "c")
HOSTS: Final = ("one", "two", "three")
MIGRATION_S: Final = 3.0
SEEN: Counter[str] = Counter()


class Sequence:
    """One sequence of reloads, and the borrowers that it must not disturb."""

    def __init__(self, world: World, seed: int) -> None:
        self.world = world
        self.rng = random.Random(f"reloads {seed}")
        self.is_over = False
        self.wanted: dict[str, ConnectionConfig] = {}
        self.reloads: list[asyncio.Task[Any]] = []
        self.drops: Counter[str] = Counter()
        self._drop = world.registry.drop
        world.registry.drop = self.drop  # type: ignore[method-assign]

    def drop(self, name: str, timeout: float) -> None:
        """The registry takes a name away: whoever waits for it is told so."""
        self.drops[name] += 1
        self._drop(name, timeout)

    def configuration(self) -> dict[str, ConnectionConfig]:
        """Some connections to some servers; often the same as before but for one thing."""
        if self.wanted and self.rng.random() < 0.3:
            return dict(self.wanted)
        names = [name for name in NAMES if self.rng.random() < 0.85] or ["a"]
        return {name: self.one(name) for name in names}

    def one(self, name: str) -> ConnectionConfig:
        """A configuration of `name`."""
        size = self.rng.choice((1, 2, 3))
        pool = {
            "max_size": size, "min_size": self.rng.choice((0, 0, 1)), "acquire_timeout": 2.0,
            "connect_timeout": 0.3, "health_check_timeout": 0.3, "disconnect_timeout": 0.3,
            "connect_retries": 1, "reset": self.rng.choice(("full", "full", "rollback")),
        }  # fmt: skip
        return configured(
            name, host=self.rng.choice(HOSTS), password=self.rng.choice(("x", "x", "y")), pool=pool
        )

    async def borrower(self) -> None:
        """Comes again and again; a name that is there serves it, unless its server fails."""
        registry = self.world.registry
        while not self.is_over:
            name = self.rng.choice(NAMES)
            was_there, drops = name in registry.names, self.drops[name]
            try:
                await self.world.borrow(name, self.rng.choice((0, 0, 0.001, 0.02, 0.3)))
                SEEN["leases"] += 1
            except (PoolTimeout, ConnectFailed, CircuitOpen, BackendError):
                SEEN["requests to a server that failed"] += 1
            except UnknownConnection:
                assert not was_there
            except PoolClosed:
                assert self.drops[name] > drops, "the name was there all the time"
            await asyncio.sleep(self.rng.choice((0, 0.001, 0.05)))

    async def trouble(self) -> None:
        """Servers go away, are slow, change their password, and come back."""
        while not self.is_over:
            server = self.world.server(self.rng.choice(HOSTS))
            match self.rng.randrange(5):
                case 0:
                    server.down()
                case 1:
                    server.connects = self.rng.choice((Dawdle(0.1), Hang(), Succeed()))
                case 2:
                    PASSWORDS[self.rng.choice(HOSTS)] = self.rng.choice(("x", "y"))
                case 3:
                    self.heal()
                case 4:
                    server.demote() if self.rng.random() < 0.5 else server.promote()
            await asyncio.sleep(self.rng.choice((0.01, 0.1, 0.5)))

    def heal(self) -> None:
        """Every server is well."""
        PASSWORDS.clear()
        for server in SERVERS.values():
            server.up()
            server.promote()
            server.connects = Succeed()
            server.unhang()

    async def reload(self) -> None:
        """One more configuration, good or bad."""
        kind = self.rng.random()
        if kind < 0.2:
            before = self.world.registry.names
            with pytest.raises(ConfigError):
                await self.world.registry.apply({**self.configuration(), "a": {"type": "nothing"}})
            assert self.world.registry.names == before
            SEEN["invalid"] += 1
            return
        config = self.configuration()
        if kind < 0.3:
            versions = [(each.name, each.version) for each in self.world.registry.status().active]
            result = await self.world.registry.apply(config, validate_only=True)
            assert result.ok
            assert versions == [(each.name, each.version) for each in self.world.registry.status().active]
            SEEN["only validated"] += 1
            return
        self.wanted = config
        result = await self.world.registry.apply(config)
        self.note(result, config)

    def note(self, result: ReloadResult, config: dict[str, ConnectionConfig]) -> None:
        """What a result says must be so."""
        SEEN["applied"] += 1
        SEEN["superseded"] += result.superseded
        SEEN["versions"] += len(result.changed)
        SEEN["proofs that failed"] += len(result.errors)
        SEEN["names removed"] += len(result.removed)
        told = [*result.added, *result.changed, *result.adjusted, *result.unchanged, *result.errors]
        assert len(told) == len(set(told))
        assert set(told) <= set(config)
        if not result.superseded:
            assert set(told) == set(config)
            for name in config:
                if name not in result.errors:
                    assert self.world.registry.named[name].config is config[name]

    async def operate(self) -> None:
        """Reloads, one after the other or several at once, some of them cancelled."""
        for _ in range(self.rng.randrange(3, 9)):
            task = asyncio.create_task(self.reload())
            self.reloads.append(task)
            if self.rng.random() < 0.5:
                await asyncio.wait([task])
            elif self.rng.random() < 0.2:
                await asyncio.sleep(self.rng.choice((0, 0.01)))
                task.cancel()
                SEEN["cancelled"] += 1
            await asyncio.sleep(self.rng.choice((0, 0, 0.01, 0.2)))
            if self.world.registry.names and self.rng.random() < 0.2:
                self.meddle(self.world.registry.get_pool(self.rng.choice(self.world.registry.names)))

    def meddle(self, handle: Any) -> None:
        """An operator does something by hand."""
        match self.rng.randrange(3):
            case 0:
                handle.resize(min_size=0, max_size=self.rng.choice((1, 4)))
            case 1:
                handle.clear()
            case 2:
                handle.pause()
                handle.resume()

    async def play(self) -> None:
        """All of it; in the end the last configuration runs, and nothing else."""
        tasks = [asyncio.create_task(self.borrower()) for _ in range(self.rng.randrange(1, 5))]
        tasks.append(asyncio.create_task(self.trouble()))
        await self.operate()
        await asyncio.wait(self.reloads)
        self.is_over = True
        await asyncio.gather(*tasks)
        for task in self.reloads:
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error
        self.heal()
        await self.comes_to_rest()
        SEEN["sequences"] += 1

    async def comes_to_rest(self) -> None:
        """With every server well, the last configuration can be had, and the old versions go."""
        registry = self.world.registry
        wanted = {name: self.one(name) for name in NAMES}
        result = await asyncio.wait_for(registry.apply(wanted), 60.0)
        assert result.ok, str(result)
        for name in NAMES:
            registry.get_pool(name).clear()  # who kept a connection to a demoted node has not asked it since
        assert {name: named.config for name, named in registry.named.items()} == wanted
        await asyncio.sleep(MIGRATION_S + 3.0)
        status = registry.status()
        assert not status.deprecated
        for name in NAMES:
            conn = await self.world.borrow(name)
            assert conn.backend is SERVERS[wanted[name].options["host"]]
            allowance = registry.named[name].allowance
            assert allowance is not None
            assert allowance.limit == wanted[name].settings.max_size
            pool = registry.named[name].pool()
            assert pool._home is pool._loop, "a pool that is alone on its allowance lends the short way"


@pytest.mark.parametrize("batch", range(BATCHES))
def test_whatever_is_reloaded_the_registry_keeps_its_word(batch: int) -> None:
    """Every pool's guarantees are audited after every step; the places of all versions of a name together."""
    for seed in range(batch * SEQUENCES, (batch + 1) * SEQUENCES):

        async def story(world: World, seed: int = seed) -> None:
            await Sequence(world, seed).play()

        try:
            in_world(story, seed=seed, migration_timeout=MIGRATION_S)
        except BaseException as error:
            error.add_note(f"in sequence {seed}")
            raise
    words = ", ".join(f"{count} {what}" for what, count in sorted(SEEN.items()) if what != "sequences")
    summary.say("random reloads", f"{SEEN['sequences']} sequences: {words}")


def test_an_error_of_a_pool_is_one_that_a_borrower_expects() -> None:
    """The sequences above excuse no other."""
    assert all(issubclass(each, PoolError) for each in (PoolTimeout, ConnectFailed, CircuitOpen, PoolClosed))
