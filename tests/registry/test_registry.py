"""Pools by name: made on first use and once, lent, watched, removed and closed."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

import pytest

from millpond._core.pool import ConnectionPool
from millpond.drivers.sqlite import SQLiteDriver
from millpond.errors import ConfigError, InvalidSettings, PoolClosed
from millpond.events import Event, EventKind
from millpond.registry import ConnectionPoolRegistry, PoolHandle, RegistryStatus, UnknownConnection
from millpond.settings import PoolSettings
from millpond.status import PoolState
from tests.registry.conftest import until
from tests.registry.known import KNOWN_KINDS

Write = Callable[..., str]
Pool: TypeAlias = ConnectionPool[Any]


@pytest.fixture
def sqlite(tmp_path: Path) -> dict[str, Any]:
    """A configuration of an SQLite database of one's own."""
    return {"type": "sqlite", "database": str(tmp_path / "mill.db"), "pool_min_size": 0}


@pytest.fixture
def registry(sqlite: dict[str, Any]) -> ConnectionPoolRegistry:
    """A registry with two connections that nobody has used."""
    made = ConnectionPoolRegistry()
    made.add("orders", sqlite)
    made.add("stock", sqlite)
    return made


@pytest.fixture
def own_pool() -> Pool:
    """A pool that somebody made without a registry."""
    return ConnectionPool(SQLiteDriver(database=":memory:"), settings=PoolSettings(max_size=1), name="own")


async def one(conn: Any) -> object:
    """What SELECT 1 says."""
    async with conn.execute("SELECT 1") as cursor:
        (value,) = await cursor.fetchone()
    return value


async def test_a_connection_is_lent_by_name(registry: ConnectionPoolRegistry) -> None:
    """The usual way, and the explicit one."""
    async with registry:
        async with registry.acquire("orders") as conn:
            first = await one(conn)
        conn = await registry.acquire("orders", timeout=5)
        second = await one(conn)
        await registry.get_pool("orders").release(conn)

        assert (first, second) == (1, 1)
        assert registry.status().active[0].leases == 0


async def test_a_file_is_all_that_it_takes(write: Write, sqlite: dict[str, Any]) -> None:
    """From the file to a row, with a value from the environment on the way."""
    path = write({"orders": {**sqlite, "database": "${DIRECTORY}/mill.db"}})
    environ = {"DIRECTORY": str(Path(sqlite["database"]).parent)}

    async with ConnectionPoolRegistry.from_file(path, environ=environ) as registry:
        async with registry.acquire("orders") as conn, conn.execute("PRAGMA database_list") as cursor:
            ((_, _, file),) = await cursor.fetchall()

        assert file == sqlite["database"]
        assert registry.files == {Path("connections.json")}


def test_a_bad_file_makes_no_registry(write: Write) -> None:
    """All that is wrong is told at once, with the file's name."""
    path = write({"orders": {"type": "sqlite"}, "stock": {"type": "sqlit", "database": "x"}})

    with pytest.raises(ConfigError) as caught:
        ConnectionPoolRegistry.from_file(path)

    assert caught.value.problems == (
        "connections.json: orders.database: is missing; must be a string",
        f"connections.json: stock.type: is not a known kind; did you mean 'sqlite'?; {KNOWN_KINDS}",
    )


async def test_many_tasks_that_ask_at_once_share_one_pool(registry: ConnectionPoolRegistry) -> None:
    """However many come first, one pool is made."""

    async def borrow() -> None:
        async with registry.acquire("orders") as conn:
            await one(conn)

    async with registry:
        async with asyncio.TaskGroup() as tasks:
            for _ in range(50):
                tasks.create_task(borrow())
        stats = registry.get_pool("orders").stats()

        assert stats.served == 50
        assert stats.opened <= 10


async def test_what_nobody_uses_is_not_opened(registry: ConnectionPoolRegistry) -> None:
    """Neither asking for the status nor taking a handle makes a pool."""
    registry.get_pool("stock")
    async with registry:
        async with registry.acquire("orders"):
            status = registry.status()

        opened, unused = status.active
        assert (opened.name, opened.kind, opened.version, opened.state) == ("orders", "sqlite", 1, "open")
        assert opened.leases == 1
        assert opened.age >= 0
        assert (unused.name, unused.kind, unused.version, unused.state) == (
            "stock",
            "sqlite",
            1,
            "not opened",
        )
        assert (unused.pool, unused.age, unused.leases, unused.healthy) == (None, 0, 0, True)
        assert status.deprecated == ()
        assert (status.closed, status.healthy) == (False, True)


async def test_the_status_is_ready_for_json(registry: ConnectionPoolRegistry) -> None:
    """For an admin page: everything by name, nothing secret."""
    import json

    async with registry:
        async with registry.acquire("orders"):
            said = json.loads(json.dumps(registry.status().as_dict()))

        assert said["active"][0]["pool"]["busy"] == 1
        assert said["active"][1] == {
            "name": "stock", "kind": "sqlite", "version": 1, "state": "not opened", "age": 0.0, "leases": 0,
            "healthy": True, "pool": None,
        }  # fmt: skip
        assert (said["closed"], said["healthy"], said["deprecated"]) == (False, True, [])


def test_names_and_kinds_are_known_without_opening_anything(registry: ConnectionPoolRegistry) -> None:
    """No loop is needed for that."""
    assert registry.names == ("orders", "stock")
    assert registry.kind("orders") == "sqlite"
    assert repr(registry) == "<ConnectionPoolRegistry open, 2 names, 0 pools>"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("order", "there is no connection 'order'; did you mean 'orders'? [MP111]"),
        ("xyz", "there is no connection 'xyz'; there are: orders, stock [MP111]"),
        ("", "there is no connection ''; there are: orders, stock [MP111]"),
        ("a\nb", "there is no connection 'a\\nb'; there are: orders, stock [MP111]"),
    ],
)
def test_an_unknown_name_is_answered_with_a_near_one(
    registry: ConnectionPoolRegistry, name: str, message: str
) -> None:
    """At once, wherever a name is used."""
    for use in (registry.acquire, registry.get_pool, registry.kind):
        with pytest.raises(UnknownConnection) as caught:
            use(name)

        assert str(caught.value) == message
        assert caught.value.name == name
        assert isinstance(caught.value, LookupError)


def test_an_unknown_name_in_an_empty_or_a_large_registry(sqlite: dict[str, Any]) -> None:
    """The list is not longer than a line."""
    registry = ConnectionPoolRegistry()
    with pytest.raises(UnknownConnection, match="there is no connection 'x'; there are none"):
        registry.acquire("x")
    for number in range(12):
        registry.add(f"name-{number:02}", sqlite)

    with pytest.raises(UnknownConnection, match=r"there are: name-00, .*, name-09, \.\.\. "):
        registry.acquire("x")


@pytest.mark.parametrize(
    ("name", "config", "problem"),
    [
        ("stock", {"database": "x"}, "stock: there is a connection of this name already"),
        (
            "a b",
            {"database": "x"},
            "'a b': a connection's name may hold only letters, digits, '_', '.' and '-'",
        ),
        ("mill", {}, "mill.database: is missing; must be a string"),
        ("mill", {"database": "x", "pool_max_size": 0}, "mill.pool_max_size: must be a whole number >= 1"),
    ],
)
def test_a_bad_configuration_from_code_is_refused_like_a_files(
    registry: ConnectionPoolRegistry, name: str, config: dict[str, Any], problem: str
) -> None:
    """And changes nothing."""
    with pytest.raises(ConfigError) as caught:
        registry.add(name, {"type": "sqlite", **config})

    assert caught.value.problems == (problem,)
    assert registry.names == ("orders", "stock")


async def test_values_from_code_are_taken_as_they_are(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """A password in code that looks like a reference is a password."""
    monkeypatch.chdir(tmp_path)
    registry = ConnectionPoolRegistry()
    registry.add("orders", {"type": "sqlite", "database": "$$${HOME}"})

    async with (
        registry,
        registry.acquire("orders") as conn,
        conn.execute("PRAGMA database_list") as cursor,
    ):
        ((_, _, file),) = await cursor.fetchall()

    assert file == str(tmp_path / "$$${HOME}")


async def test_a_pool_of_ones_own_can_be_added(registry: ConnectionPoolRegistry, own_pool: Pool) -> None:
    """For what no configuration can say; the registry lends from it and closes it."""
    registry.add_pool("mill", own_pool)

    async with registry:
        async with registry.acquire("mill") as conn:
            assert await one(conn) == 1
        assert registry.kind("mill") == "sqlite"
        assert registry.status().active[-1].name == "mill"

    assert own_pool.status().state is PoolState.CLOSED


def test_a_pool_of_ones_own_needs_a_free_and_proper_name(
    registry: ConnectionPoolRegistry, own_pool: Pool
) -> None:
    """The same rules as for names in a file."""
    with pytest.raises(ConfigError, match="orders: there is a connection of this name already"):
        registry.add_pool("orders", own_pool)
    with pytest.raises(ConfigError, match="'a b': a connection's name may hold only letters"):
        registry.add_pool("a b", own_pool)


@pytest.mark.parametrize("thing", [3, None, "sqlite://", PoolSettings(), ConnectionPool])
def test_what_is_no_pool_cannot_be_added(registry: ConnectionPoolRegistry, thing: Any) -> None:
    """Refused when it is added, not when somebody wants to borrow; nothing stays behind."""
    with pytest.raises(
        TypeError, match=r"add_pool\(\) needs a ConnectionPool, got (int|NoneType|str|.*Set|type)"
    ):
        registry.add_pool("mill", thing)

    assert registry.names == ("orders", "stock")


async def test_a_closed_pool_cannot_be_added(registry: ConnectionPoolRegistry, own_pool: Pool) -> None:
    """Refused when it is added, not when somebody wants to borrow."""
    await own_pool.close()

    with pytest.raises(PoolClosed, match="pool 'mill': the pool to add is closed already"):
        registry.add_pool("mill", own_pool)

    assert registry.names == ("orders", "stock")


async def test_a_removed_name_is_unknown_at_once_and_its_pool_ends_well(
    registry: ConnectionPoolRegistry, own_pool: Pool
) -> None:
    """Borrowers finish; nobody new comes in."""
    registry.add_pool("mill", own_pool)
    async with registry:
        handle = registry.get_pool("mill")
        conn = await handle.acquire()
        removing = asyncio.create_task(registry.remove("mill"))
        await until(lambda: own_pool.status().state is PoolState.CLOSING)

        assert registry.names == ("orders", "stock")
        with pytest.raises(UnknownConnection):
            registry.acquire("mill")
        with pytest.raises(UnknownConnection):
            handle.status()
        assert await one(conn) == 1
        await own_pool.release(conn)
        await removing
        assert own_pool.status().state is PoolState.CLOSED


async def test_what_was_never_used_is_removed_without_more(registry: ConnectionPoolRegistry) -> None:
    """There is nothing to close."""
    async with registry:
        await registry.remove("stock")

        assert registry.names == ("orders",)
        with pytest.raises(UnknownConnection):
            await registry.remove("stock")


async def test_closing_the_registry_also_ends_what_is_being_removed(
    registry: ConnectionPoolRegistry, own_pool: Pool
) -> None:
    """No pool is forgotten between the two."""
    registry.add_pool("mill", own_pool)
    await registry.acquire("mill")
    removing = asyncio.create_task(registry.remove("mill", timeout=None))
    await until(lambda: own_pool.status().state is PoolState.CLOSING)

    await registry.close(0)
    await removing

    assert own_pool.status().state is PoolState.CLOSED
    assert own_pool.status().total == 0


async def test_a_handle_follows_its_name(registry: ConnectionPoolRegistry, tmp_path: Path) -> None:
    """Kept while the name is removed and given again, it works with the new one."""
    async with registry:
        handle = registry.get_pool("orders")
        async with handle.acquire() as conn:
            await conn.execute("CREATE TABLE old (x)")
        await registry.remove("orders")
        registry.add("orders", {"type": "sqlite", "database": str(tmp_path / "other.db"), "pool_max_size": 3})
        async with handle.acquire() as conn, conn.execute("SELECT count(*) FROM sqlite_master") as cursor:
            (tables,) = await cursor.fetchone()

        assert tables == 0
        assert handle.settings.max_size == 3


async def test_a_handle_does_what_its_pool_does(registry: ConnectionPoolRegistry) -> None:
    """Every part of it, once."""
    async with registry:
        handle = registry.get_pool("orders")
        await handle.initialize()
        lease = await handle.lease()
        holders = handle.holders()
        handle.report(lease.connection, ValueError("a query failed"))
        lease.release()
        conn = handle.detach(await handle.acquire())
        await conn.close()
        await handle.check()
        handle.resize(max_size=4)
        handle.clear()
        handle.pause("refuse")
        with pytest.raises(PoolClosed):
            await handle.acquire()
        handle.resume()
        await handle.drain(timeout=5)
        handle.resume()

        assert (handle.name, handle.kind, handle.settings.max_size) == ("orders", "sqlite", 4)
        assert isinstance(handle.driver, SQLiteDriver)
        assert len(holders) == 1
        assert handle.status().state is PoolState.OPEN
        assert handle.apply(PoolSettings(min_size=0, max_size=5)).in_place["max_size"] == (4, 5)
        assert repr(handle) == "<PoolHandle 'orders'>"


def test_a_handle_has_the_whole_surface_of_a_pool() -> None:
    """What a pool learns, a handle learns too; only closing is the registry's."""
    of_pool = {name for name in vars(ConnectionPool) if not name.startswith("_")}
    registrys_own = {"close", "from_factory"}

    assert of_pool - registrys_own <= {name for name in vars(PoolHandle) if not name.startswith("_")}


@pytest.mark.parametrize(
    "name",
    [
        name
        for name, each in vars(PoolHandle).items()
        if inspect.isfunction(each) and not name.startswith("_")
    ],
)
def test_a_handle_is_called_like_its_pool(name: str) -> None:
    """The same arguments under the same names, with the same defaults, awaited or not."""
    of_handle, of_pool = getattr(PoolHandle, name), getattr(ConnectionPool, name)

    def shape(function: Any) -> list[tuple[str, Any, Any]]:
        parameters = inspect.signature(function).parameters.values()
        return [(each.name, each.kind, each.default) for each in parameters]

    assert shape(of_handle) == shape(of_pool)
    assert inspect.iscoroutinefunction(of_handle) == inspect.iscoroutinefunction(of_pool)


async def test_a_listener_hears_every_pool_of_its_name(registry: ConnectionPoolRegistry) -> None:
    """Also one that is made after it began to listen."""
    heard: list[Event] = []
    async with registry:
        registry.get_pool("orders").add_listener(heard.append)
        async with registry.acquire("orders"), registry.acquire("stock"):
            pass

    assert {event.pool for event in heard} == {"orders"}
    assert EventKind.LENT in {event.kind for event in heard}


async def test_a_check_opens_a_pool_and_says_nothing_when_all_is_well(
    registry: ConnectionPoolRegistry,
) -> None:
    """A backend that answers."""
    async with registry:
        await registry.check("orders")

        assert registry.status().active[0].state == "open"
        with pytest.raises(UnknownConnection):
            await registry.check("xyz")


async def test_a_closed_registry_lends_nothing(
    registry: ConnectionPoolRegistry, sqlite: dict[str, Any]
) -> None:
    """It says so at once, to whoever asks; its status can still be read."""
    handle = registry.get_pool("orders")
    async with registry, registry.acquire("orders"):
        pass

    for use in (
        lambda: registry.acquire("orders"),
        lambda: registry.acquire("stock"),
        lambda: registry.get_pool("orders"),
        lambda: registry.add("mill", sqlite),
        handle.acquire,
        handle.status,
    ):
        with pytest.raises(PoolClosed, match=r"^pool '\w+': the registry is closed"):
            use()
    with pytest.raises(PoolClosed, match=r"^the registry is closed"):
        await registry.apply({})
    status = registry.status()
    assert isinstance(status, RegistryStatus)
    assert (status.closed, status.healthy) == (True, False)
    assert [each.state for each in status.active] == ["closed", "not opened"]
    assert registry.names == ("orders", "stock")


async def test_all_pools_close_at_the_same_time(registry: ConnectionPoolRegistry) -> None:
    """One slow borrower delays nobody but its own pool; each borrower may finish."""
    pools = [ConnectionPool(SQLiteDriver(database=":memory:"), name=name) for name in ("a", "b")]
    for pool in pools:
        registry.add_pool(pool.name, pool)
    held = [await pool.acquire() for pool in pools]

    closing = asyncio.create_task(registry.close())
    await until(lambda: all(pool.status().state is PoolState.CLOSING for pool in pools))

    assert [await one(conn) for conn in held] == [1, 1]
    for pool, conn in zip(pools, held, strict=True):
        await pool.release(conn)
    await closing
    assert [pool.status().state for pool in pools] == [PoolState.CLOSED] * 2


async def test_closing_ends_although_a_borrower_never_gives_back(registry: ConnectionPoolRegistry) -> None:
    """What is out is cut when the time is over; closing again changes nothing."""
    held = await registry.acquire("orders")

    async with asyncio.timeout(10):
        await registry.close(0.01)
        await registry.close()

    assert [each.pool.total for each in registry.status().active if each.pool] == [0]
    with pytest.raises(Exception):  # noqa: B017, PT011 - whatever the client library says of a dead connection
        await one(held)


async def test_closing_that_was_cancelled_can_be_repeated(
    registry: ConnectionPoolRegistry, own_pool: Pool
) -> None:
    """Newcomers are refused from the first attempt on."""
    registry.add_pool("mill", own_pool)
    conn = await own_pool.acquire()
    closing = asyncio.create_task(registry.close())
    await until(lambda: own_pool.status().state is PoolState.CLOSING)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing

    with pytest.raises(PoolClosed):
        registry.acquire("orders")
    await own_pool.release(conn)
    await registry.close()

    assert own_pool.status().state is PoolState.CLOSED


def test_a_registry_is_bound_to_no_loop(registry: ConnectionPoolRegistry) -> None:
    """Made outside of any; each pool lives where it is first used."""

    async def use(name: str) -> object:
        async with registry.acquire(name) as conn:
            found = await one(conn)
        await registry.remove(name)
        return found

    assert [asyncio.run(use("orders")), asyncio.run(use("stock"))] == [1, 1]


@pytest.mark.parametrize("value", [0, -1, float("nan"), float("inf"), "300", None, True])
def test_the_migration_timeout_is_a_time(value: Any) -> None:
    """It bounds how long replaced pools live; without end there would be no bound."""
    with pytest.raises(InvalidSettings, match="migration_timeout: must be a number > 0"):
        ConnectionPoolRegistry(migration_timeout=value)


def test_the_migration_timeout_is_kept(write: Write) -> None:
    """Five minutes where nothing is said."""
    assert ConnectionPoolRegistry().migration_timeout == 300.0
    assert ConnectionPoolRegistry.from_file(write({}), migration_timeout=7).migration_timeout == 7.0


@pytest.mark.parametrize(
    ("module", "statement", "expected"),
    [
        (
            "pydantic",
            "import millpond.registry",
            "MissingExtra config millpond.registry needs the package 'pydantic': "
            "pip install 'millpond[config]' [MP109]",
        ),
        (
            "yaml",
            "from millpond.registry import ConnectionPoolRegistry as R; R.from_file('connections.yaml')",
            "MissingExtra config reading connections.yaml needs the package 'yaml': "
            "pip install 'millpond[config]' [MP109]",
        ),
        (
            "aiosqlite",
            "from millpond.registry import ConnectionPoolRegistry as R; R.from_file('connections.json')",
            "ConfigError None connections.json: orders.type: SQLiteDriver needs the package 'aiosqlite': "
            "pip install 'millpond[sqlite]' [MP110]",
        ),
    ],
)
def test_a_missing_package_is_one_line_with_the_extra(
    write: Write, module: str, statement: str, expected: str
) -> None:
    """Asked in a process in which the package cannot be imported."""
    write({"orders": {"type": "sqlite", "database": "mill.db"}})
    write("orders: {type: sqlite, database: mill.db}", "connections.yaml")
    program = f"""
import sys
sys.modules[{module!r}] = None
from millpond.errors import PoolError
try:
    {statement}
except PoolError as error:
    print(type(error).__name__, getattr(error, "extra", None), error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

    assert (run.stdout.strip(), run.stderr) == (expected, "")
