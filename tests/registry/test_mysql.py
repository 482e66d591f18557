"""From a file to rows on a real MariaDB, and what is said when that cannot be."""

import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millpond._create import create_pool
from millpond.errors import PoolError
from millpond.registry import ConnectionPoolRegistry
from tests.servers import MariaDBServer

Write = Callable[..., str]


@pytest.fixture(params=["asyncmy", "aiomysql"])
def parts(request: pytest.FixtureRequest, mariadb: MariaDBServer) -> dict[str, Any]:
    """The configuration of a database of one's own, in parts, with each library in turn."""
    database = f"registry_{request.param}"
    mariadb.execute(
        f"CREATE OR REPLACE DATABASE {database}; GRANT ALL ON {database}.* TO {mariadb.user}@127.0.0.1"
    )
    return {
        "type": "mysql", "host": mariadb.host, "port": mariadb.port, "database": database,
        "user": mariadb.user, "password": mariadb.password, "library": request.param,
    }  # fmt: skip


async def test_a_file_leads_to_rows(write: Write, tmp_path: Path, parts: dict[str, Any]) -> None:
    """Written through one spelling of the connection, read through another; sizes are the kind's."""
    secret = tmp_path / write(parts["password"] + "\n", "password")
    environ = {"PORT": str(parts["port"]), "DATABASE": parts["database"]}
    url = f"mysql://{parts['user']}@{parts['host']}:${{PORT}}/${{DATABASE}}?charset=utf8mb4"
    more = {
        "port": "${PORT}", "database": "{$DATABASE}", "statement_timeout": "${SECONDS:-20}",
        "server_settings": {"time_zone": "+02:00", "sort_buffer_size": 262144},
        "init_statements": ["SET @grain = 'rye'"],
    }  # fmt: skip
    path = write({
        "parts": {**parts, **more, "pool_max_size": 3, "acquisition_timeout": 5},
        "url": {"url": url, "password": f"${{file:{secret}}}", "library": parts["library"]},
    })  # fmt: skip

    async with ConnectionPoolRegistry.from_file(path, environ=environ) as registry:
        async with registry.acquire("parts") as conn, conn.cursor() as cursor:
            await cursor.execute("CREATE TABLE sack (grain text)")
            await cursor.execute("INSERT INTO sack VALUES (@grain)")
            await cursor.execute("SELECT @@time_zone, @@max_statement_time, @@sort_buffer_size")
            settings = await cursor.fetchone()
        async with registry.acquire("url") as conn, conn.cursor() as cursor:
            await cursor.execute("SELECT grain FROM sack")
            found = await cursor.fetchall()
        sizes = [(each.pool.min_size, each.pool.max_size) for each in registry.status().active if each.pool]

    assert list(found) == [("rye",)]
    assert settings == ("+02:00", 20.0, 262144)
    assert sizes == [(1, 3), (1, 10)]


@pytest.mark.parametrize(
    "wrong", [{"password": "wrong-grain"}, {"database": "no-such-mill"}, {"port": 1}], ids=str
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
        said = repr(found) + "".join(traceback.format_exception(refused.value)) + repr(registry.status())

    assert not found.healthy
    assert refused.value.pool == "orders"
    assert values["password"] not in said


async def test_a_pool_is_made_from_a_url(mariadb: MariaDBServer) -> None:
    """Without any file or name; a function for the password can be given beside it."""
    url = mariadb.dsn().replace(f":{mariadb.password}@", "@")

    async with create_pool(url, password=lambda: mariadb.password, max_size=2) as pool:
        async with pool.acquire() as conn, conn.cursor() as cursor:
            await cursor.execute("SELECT 1")
            assert await cursor.fetchone() == (1,)

        assert (pool.name, pool.settings.min_size, pool.settings.max_size) == ("mysql", 1, 2)
