"""A new configuration takes over while the old one serves."""

import asyncio
from typing import Any

import pytest

from millpond import PoolClosed, PoolState, PoolTimeout
from millpond.errors import ConfigError
from millpond.events import EventKind
from millpond.registry import UnknownConnection
from millpond.testing.driver import AccessDenied, BackendDown, Dawdle, Fail, ReadOnly
from millpond.testing.loop import current
from tests.registry.worlds import PASSWORDS, World, configured, in_world

SEEDS = range(5)


def one(**values: Any) -> Any:
    """A configuration of the connection `a`."""
    return configured("a", **values)


def test_the_same_configuration_changes_nothing() -> None:
    """Not the pool, not its connections."""

    async def story(world: World) -> None:
        await world.apply(one(password="x"))
        first = await world.borrow("a")
        result = await world.apply(one(password="x"))
        assert result.unchanged == ("a",)
        assert result.ok
        assert await world.borrow("a") is first
        assert str(result) == "nothing changed"

    in_world(story)


def test_settings_that_a_running_pool_can_change_are_changed_in_it() -> None:
    """No new version, no new connection; the limit that versions share goes with it."""

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 1}))
        first = await world.borrow("a")
        result = await world.apply(one(pool={"max_size": 3}))
        assert result.adjusted == ("a",)
        assert world.registry.status().active[0].version == 1
        both = [asyncio.create_task(world.borrow("a", 1)) for _ in range(3)]
        assert first in await asyncio.gather(*both)
        assert current().time() < 1.5

    in_world(story)


def test_a_pool_that_somebody_resized_by_hand_is_put_right_by_the_next_reload() -> None:
    """The difference is taken against what runs."""

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 2}))
        handle = world.registry.get_pool("a")
        await world.borrow("a")
        handle.resize(max_size=5)
        assert handle.status().max_size == 5
        assert (await world.apply(one(pool={"max_size": 2}))).adjusted == ("a",)
        assert handle.status().max_size == 2

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_new_version_takes_over_without_a_request_lost(seed: int) -> None:
    """Leases end where they began, those who wait are served by the new server, in order."""
    hosts: list[tuple[int, str]] = []

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 2}))

        async def borrow(number: int) -> None:
            async with world.registry.acquire("a") as conn:
                host = next(host for host in ("one", "two") if conn.backend is world.server(host))
                hosts.append((number, host))
                await asyncio.sleep(0.3)

        tasks = []

        async def come(numbers: range) -> None:
            for number in numbers:
                tasks.append(asyncio.create_task(borrow(number)))
                await asyncio.sleep(0.05)

        await come(range(6))
        coming = asyncio.create_task(come(range(6, 30)))
        result = await world.apply(one(host="two", pool={"max_size": 2}))
        assert result.changed == ("a",)
        assert not coming.done()
        await coming
        assert (await world.borrow("a")).backend is world.server("two")
        await asyncio.gather(*tasks)
        assert [number for number, _ in hosts] == list(range(30))
        assert [host for _, host in hosts] == sorted(host for _, host in hosts)
        assert {host for _, host in hosts[:6]} == {"one"}
        assert {host for _, host in hosts[-6:]} == {"two"}

    in_world(story, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_the_proof_takes_a_place_of_the_old_version_and_never_one_more(seed: int) -> None:
    """All of the old one's places are lent: the proof waits for the first that comes back."""

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 2}))
        holders = [asyncio.create_task(world.borrow("a", seconds)) for seconds in (1.0, 2.0)]
        await asyncio.sleep(0.1)
        await world.apply(one(host="two", pool={"max_size": 2}))
        assert current().time() == pytest.approx(1.0, abs=0.1)
        newcomer = asyncio.create_task(world.borrow("a"))
        await newcomer
        status = world.registry.status()
        assert [each.version for each in status.active] == [2]
        assert [(each.version, each.leases) for each in status.deprecated] == [(1, 1)]
        await asyncio.gather(*holders)
        await world.registry.wait_closed("a", 1)
        assert world.registry.status().deprecated == ()
        assert world.server("one").peak_live + world.server("two").peak_live <= 3

    in_world(story, seed=seed)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_password_that_has_changed_fails_nobody_while_its_new_version_is_proved(seed: int) -> None:
    """The old version could open no other: it gives one place for the proof, however many come back."""

    async def story(world: World) -> None:
        PASSWORDS["one"] = "old"
        old = one(password="old", pool={"max_size": 4, "min_size": 2})
        await world.apply(old)
        closed: list[str] = []
        world.registry.get_pool("a").add_listener(
            lambda event: closed.append(str(event)) if event.kind is EventKind.CLOSED else None
        )
        is_over = False

        async def borrow_on() -> None:
            while not is_over:
                await world.borrow("a", 0.01)

        borrowers = [asyncio.create_task(borrow_on()) for _ in range(8)]
        await asyncio.sleep(1.0)
        PASSWORDS["one"] = "new"
        result = await world.apply(one(password="new", pool={"max_size": 4, "min_size": 2}))
        assert result.changed == ("a",)
        assert sum("shed" in each for each in closed) == 1, closed
        await asyncio.sleep(1.0)
        is_over = True
        await asyncio.gather(*borrowers)

    in_world(story, seed=seed)


@pytest.mark.parametrize(
    ("what", "says"),
    [
        ("down", "backend is down"),
        ("denied", "wrong"),
        ("unfit", "not the primary"),
        ("mute", "does not answer a ping"),
    ],
)
def test_when_the_proof_fails_the_old_version_goes_on(what: str, says: str) -> None:
    """The result says why; and nothing of the new one is left. Applying again tries again."""

    async def story(world: World) -> None:
        await world.apply(one())
        first = await world.borrow("a")
        two = world.server("two")
        match what:
            case "down":
                two.down()
            case "denied":
                PASSWORDS["two"] = "other"
            case "unfit":
                two.pings = Fail(ReadOnly("not the primary"))
            case "mute":
                two.pings = Dawdle(1000)
        result = await world.apply(one(host="two", password="sesame"))
        assert says in result.errors["a"]
        assert "sesame" not in result.errors["a"]
        assert not result.ok
        assert await world.borrow("a") is first
        assert world.registry.status().active[0].version == 1
        assert world.registry.status().deprecated == ()
        assert not two.live
        two.up()
        PASSWORDS.clear()
        two.pings = Dawdle(0)
        assert (await world.apply(one(host="two", password="sesame"))).changed == ("a",)
        assert (await world.borrow("a")).backend is two

    in_world(story)


def test_a_changed_password_closes_what_was_opened_with_the_old_one() -> None:
    """Idle connections at once, lent ones when they come back."""

    async def story(world: World) -> None:
        await world.apply(one(password="old"))
        first = await world.borrow("a")
        lease = await world.registry.get_pool("a").lease()
        PASSWORDS["one"] = "new"
        assert (await world.apply(one(password="new"))).changed == ("a",)
        assert first.is_alive  # on loan
        lease.release()
        await world.registry.wait_closed("a", 1)
        assert not first.is_alive
        assert await world.borrow("a") is not first

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_of_several_reloads_in_flight_the_last_one_wins(seed: int) -> None:
    """Those it has overtaken say so, at once, though their server never answers."""

    async def story(world: World) -> None:
        await world.apply(one())
        await world.borrow("a")
        world.server("slow").connects = Dawdle(1000)
        slow = [asyncio.create_task(world.apply(one(host="slow", password=str(each)))) for each in range(3)]
        await asyncio.sleep(0.1)
        last = await world.apply(one(host="two"))
        results = await asyncio.wait_for(asyncio.gather(*slow), 0.1)
        assert [each.superseded for each in results] == [True, True, True]
        assert last.changed == ("a",)
        assert not last.superseded
        assert (await world.borrow("a")).backend is world.server("two")

    in_world(story, seed=seed)


def test_a_reload_that_is_cancelled_leaves_the_old_version() -> None:
    """And nothing of the new one."""

    async def story(world: World) -> None:
        await world.apply(one())
        await world.borrow("a")
        world.server("slow").connects = Dawdle(1000)
        reload = asyncio.create_task(world.apply(one(host="slow")))
        await asyncio.sleep(0.1)
        reload.cancel()
        with pytest.raises(asyncio.CancelledError):
            await reload
        assert not world.server("slow").live
        await world.borrow("a")
        assert world.registry.status().active[0].version == 1

    in_world(story)


def test_names_that_nobody_has_used_are_not_opened() -> None:
    """A new configuration for them is only remembered; it proves itself at the first use."""

    async def story(world: World) -> None:
        await world.apply(one(), configured("b"))
        world.registry.get_pool("b").status()
        result = await world.apply(one(host="two"), configured("b", host="two"))
        assert result.changed == ("a", "b")
        assert not world.server("two").live
        for name in "ab":
            assert (await world.borrow(name)).backend is world.server("two")
        assert [each.version for each in world.registry.status().active] == [2, 2]

    in_world(story)


def test_a_name_that_is_gone_is_unknown_and_its_leases_end_well() -> None:
    """Who waits is told; and when it comes again, its versions go on counting."""

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 1}), configured("b"))
        handle = world.registry.get_pool("a")
        conn = await handle.acquire()
        waiting = asyncio.create_task(world.borrow("a"))
        await asyncio.sleep(0.1)
        assert (await world.apply(configured("b"))).removed == ("a",)
        with pytest.raises(PoolClosed):
            await waiting
        with pytest.raises(UnknownConnection):
            world.registry.acquire("a")
        assert conn.is_alive
        await handle.release(conn)
        await world.registry.wait_closed("a", 1)
        assert not conn.is_alive
        assert (await world.apply(one(), configured("b"))).added == ("a",)
        assert world.registry.status().active[-1].version == 2
        await handle.initialize()

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_name_that_is_gone_and_comes_back_keeps_to_its_limit(seed: int) -> None:
    """A file that lost a connection for a moment doubles nothing: leases that are out still count."""

    async def story(world: World) -> None:
        two = one(pool={"max_size": 2})
        await world.apply(two)
        holders = [asyncio.create_task(world.borrow("a", seconds)) for seconds in (1.0, 2.0)]
        await asyncio.sleep(0.1)
        for _ in range(2):
            await world.apply()
            await world.apply(two)
            with pytest.raises(PoolTimeout):
                await world.registry.acquire("a", timeout=0.1)
        await world.apply(one(pool={"max_size": 3}))
        third = asyncio.create_task(world.borrow("a", 5.0))
        await asyncio.sleep(0.5)
        assert world.server("one").peak_live == 3
        await asyncio.gather(*holders)
        both = [asyncio.create_task(world.borrow("a", 0.1)) for _ in range(2)]
        await asyncio.gather(*both)
        assert not third.done()
        assert world.server("one").peak_live == 3
        await third

    in_world(story, seed=seed)


def test_what_the_program_added_stays() -> None:
    """A file says nothing about it; a pool of the program's own cannot be replaced by one."""

    async def story(world: World) -> None:
        from millpond import ConnectionPool
        from tests.registry.worlds import ScriptedKind

        world.registry.add_pool("own", ConnectionPool(ScriptedKind(host="one")))
        await world.apply(one())
        assert world.registry.names == ("own", "a")
        with pytest.raises(ConfigError, match="own: a pool of this name was added by the program"):
            await world.apply(configured("own"))

    in_world(story)


def test_a_configuration_with_a_fault_changes_nothing() -> None:
    """All or nothing, whatever else stands in it; every fault is named."""

    async def story(world: World) -> None:
        await world.apply(one())
        wrong = {"a": one(host="two"), "b": {"type": "sqlite", "databse": "x"}, "c": {"type": "nothing"}}
        with pytest.raises(ConfigError) as caught:
            await world.registry.apply(wrong)
        assert len(caught.value.problems) >= 2
        assert world.registry.names == ("a",)
        assert (await world.borrow("a")).backend is world.server("one")

    in_world(story)


def test_validating_says_what_would_be() -> None:
    """And does nothing, not even ask the server."""

    async def story(world: World) -> None:
        await world.apply(one(), configured("b"), configured("c"))
        await world.borrow("a")
        result = await world.apply(
            one(host="two"), configured("b", pool={"max_size": 7}), configured("d"), validate_only=True
        )
        assert result.validated_only
        assert (result.changed, result.adjusted, result.added, result.removed) == (
            ("a",), ("b",), ("d",), ("c",)
        )  # fmt: skip
        assert world.registry.names == ("a", "b", "c")
        assert not world.server("two").live

    in_world(story)


def test_a_lease_that_never_ends_is_cut_at_the_migration_timeout() -> None:
    """Until then it works; the version is gone afterwards."""

    async def story(world: World) -> None:
        await world.apply(one())
        conn = await world.registry.get_pool("a").acquire()
        await world.apply(one(host="two"))
        await asyncio.sleep(4)
        assert conn.is_alive
        await world.registry.wait_closed("a", 1)
        assert current().time() == pytest.approx(5, abs=0.2)
        assert not conn.is_alive
        await world.registry.get_pool("a").release(conn)

    in_world(story, migration_timeout=5.0)


def test_a_handle_kept_for_years_sends_each_release_to_its_owner() -> None:
    """Also what is reported, or taken out of the pool."""

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 4}))
        handle = world.registry.get_pool("a")
        old = [await handle.acquire() for _ in range(3)]
        await world.apply(one(host="two", pool={"max_size": 4}))
        new = await handle.acquire()
        assert len(handle.holders()) == 4
        handle.report(old[0], BackendDown("gone"))
        assert handle.detach(old[1]) is old[1]
        for conn in (old[0], new, old[2]):
            await handle.release(conn)
        await world.registry.wait_closed("a", 1)
        assert not handle.holders()
        old[1].backend.driver = None
        from tests.registry.worlds import ScriptedKind

        ScriptedKind(host="one").terminate(old[1])

    in_world(story)


def test_a_connection_can_be_given_back_while_the_registry_closes() -> None:
    """The handle lends nothing any more, and takes back what it lent."""

    async def story(world: World) -> None:
        await world.apply(one())
        handle = world.registry.get_pool("a")
        conn = await handle.acquire()
        closing = asyncio.create_task(world.registry.close(5))
        await asyncio.sleep(0.1)
        assert not closing.done()
        await handle.release(conn)
        await asyncio.wait_for(closing, 0.1)

    in_world(story)


def test_a_paused_name_stays_paused_whatever_is_reloaded() -> None:
    """Who paused it resumes it."""

    async def story(world: World) -> None:
        await world.apply(one())
        await world.borrow("a")
        handle = world.registry.get_pool("a")
        handle.pause()
        assert (await world.apply(one(host="two"))).changed == ("a",)
        assert handle.status().state is PoolState.PAUSED
        with pytest.raises(PoolTimeout):
            await handle.acquire(timeout=0.5)
        handle.resume()
        assert (await world.borrow("a")).backend is world.server("two")

    in_world(story)


def test_closing_ends_a_reload_that_is_under_way() -> None:
    """Its server never answers; the registry closes all the same, and leaves nothing."""

    async def story(world: World) -> None:
        await world.apply(one())
        await world.borrow("a")
        world.server("slow").connects = Dawdle(1000)
        reload = asyncio.create_task(world.apply(one(host="slow")))
        await asyncio.sleep(0.1)
        await world.registry.close(1)
        assert (await reload).superseded
        with pytest.raises(PoolClosed):
            await world.apply(one())

    in_world(story)


@pytest.mark.parametrize("seed", SEEDS)
def test_three_versions_at_once_keep_to_the_largest_limit(seed: int) -> None:
    """The auditor counts places after every step."""

    async def story(world: World) -> None:
        await world.apply(one(pool={"max_size": 3}))
        tasks = [asyncio.create_task(world.borrow("a", 3)) for _ in range(2)]
        await asyncio.sleep(0.1)
        for number, size in enumerate((2, 4, 1)):
            assert (await world.apply(one(host=f"h{number}", pool={"max_size": size}))).changed == ("a",)
            tasks += [asyncio.create_task(world.borrow("a", 2)) for _ in range(3)]
            await asyncio.sleep(0.1)
            live = sum(len(world.server(host).live) for host in ("one", "h0", "h1", "h2"))
            assert live <= 4
        await asyncio.gather(*tasks)

    in_world(story, seed=seed)


def test_an_error_of_the_server_that_repeats_the_password_is_masked() -> None:
    """In the result, and in what is logged of it."""

    async def story(world: World) -> None:
        await world.apply(one(password="open-sesame-1"))
        await world.borrow("a")
        world.server("two").connects = Fail(AccessDenied("no: password open-sesame-2 for a"))
        result = await world.apply(one(host="two", password="open-sesame-2"))
        assert "open-sesame" not in str(result)
        assert "open-sesame" not in repr(result)

    in_world(story)
