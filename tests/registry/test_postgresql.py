"""From a file to rows on a real PostgreSQL, and what is said when that cannot be."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millpond._create import create_pool
from millpond.errors import ConnectFailed, PoolError
from millpond.registry import ConnectionPoolRegistry
from tests.servers import PostgresServer

Write = Callable[..., str]


@pytest.fixture
def parts(postgres: PostgresServer, postgres_database: str) -> dict[str, Any]:
    """The configuration of a database of one's own, in parts."""
    return {
        "type": "postgresql", "host": postgres.host, "port": postgres.port, "database": postgres_database,
        "user": postgres.user, "password": postgres.password, "ssl": "disable",
    }  # fmt: skip


async def test_a_file_leads_to_rows(write: Write, tmp_path: Path, parts: dict[str, Any]) -> None:
    """Written through one spelling of the connection, read through another."""
    secret = tmp_path / write(parts["password"] + "\n", "password")
    environ = {"PORT": str(parts["port"]), "DATABASE": parts["database"]}
    url = f"postgresql://{parts['user']}@{parts['host']}:${{PORT}}/${{DATABASE}}"
    from_environment = {"port": "${PORT}", "database": "{$DATABASE}"}
    path = write({
        "parts": {**parts, **from_environment, "pool_max_size": 3, "acquisition_timeout": 5},
        "url": {"url": url, "password": f"${{file:{secret}}}", "ssl": "disable", "pool": {"max_size": 1}},
    })  # fmt: skip

    async with ConnectionPoolRegistry.from_file(path, environ=environ) as registry:
        async with registry.acquire("parts") as conn:
            await conn.execute("CREATE TABLE sack (grain text)")
            await conn.execute("INSERT INTO sack VALUES ($1)", "rye")
        async with registry.acquire("url") as conn:
            found = await conn.fetchval("SELECT grain FROM sack")
        await registry.check("url")

        assert found == "rye"
        assert [each.pool.max_size for each in registry.status().active if each.pool] == [3, 1]
        assert registry.files == {Path(path), secret}


@pytest.mark.parametrize(
    "wrong",
    [
        {"password": "wrong-grain"},
        {"database": "no-such-mill"},
        {"port": 1},
        {"host": "no.such.mill.invalid"},
    ],
)
async def test_what_cannot_be_reached_is_told_without_the_password(
    write: Write, parts: dict[str, Any], wrong: dict[str, Any]
) -> None:
    """In an error that names the connection."""
    values = {**parts, **wrong, "pool": {"connect_retries": 0, "connect_timeout": 5}}

    async with ConnectionPoolRegistry.from_file(write({"orders": values})) as registry:
        found = await registry.check("orders", 5)
        with pytest.raises(PoolError) as refused:
            async with registry.acquire("orders"):
                pass
        said = repr(found) + "".join(traceback.format_exception(refused.value))

        assert not found.healthy
        assert refused.value.pool == "orders"
        assert values["password"] not in said + repr(registry.status())
        assert not registry.status().healthy


async def test_a_pool_is_made_from_a_url(postgres: PostgresServer, postgres_database: str) -> None:
    """Without any file or name."""
    async with create_pool(postgres.dsn(database=postgres_database), ssl="disable", max_size=2) as pool:
        async with pool.acquire() as conn:
            assert await conn.fetchval("SELECT 1") == 1

        assert (pool.name, pool.settings.min_size, pool.settings.max_size) == ("postgresql", 2, 2)


async def test_a_function_for_the_password_can_be_given_beside_the_url(
    postgres: PostgresServer, postgres_database: str
) -> None:
    """What no file and no URL can say."""
    asked: list[str] = []

    async def password() -> str:
        asked.append("please")
        return postgres.password

    url = f"postgresql://{postgres.user}@{postgres.host}:{postgres.port}/{postgres_database}"
    async with create_pool(url, password=password, ssl="disable", min_size=0) as pool, pool.acquire():
        pass

    assert asked


async def test_a_wrong_url_fails_when_it_is_used(postgres: PostgresServer) -> None:
    """Making a pool does no I/O."""
    pool = create_pool(postgres.dsn(password="wrong-grain"), ssl="disable", connect_retries=0)

    with pytest.raises(ConnectFailed) as caught:
        await pool.acquire()

    assert caught.value.permanent
    assert "wrong-grain" not in "".join(traceback.format_exception(caught.value))
    await pool.close()
