"""How psycopg connections are opened, where that is psycopg's or libpq's own."""

import asyncio
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

import psycopg as library
import pytest

from millpond import create_pool
from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.errors import MissingExtra
from tests.drivers.backends import Psycopg, until
from tests.servers import PostgresServer, free_port

Opened = Callable[[Any], Awaitable[Any]]


@pytest.mark.parametrize(("missing", "extra"), [("asyncpg", "postgresql"), ("psycopg", "psycopg")])
def test_a_missing_library_names_its_extra(missing: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """The other library alone is enough for the other choice."""
    other = {"asyncpg": "psycopg", "psycopg": "asyncpg"}[missing]
    monkeypatch.setitem(sys.modules, missing, None)
    monkeypatch.delitem(sys.modules, f"millpond.drivers._{missing}", raising=False)
    monkeypatch.delitem(sys.modules, "millpond.drivers.postgresql")
    driver_class = importlib.import_module("millpond.drivers.postgresql").PostgreSQLDriver

    with pytest.raises(MissingExtra, match=rf"pip install 'millpond\[{extra}\]'"):
        driver_class(library=missing)
    assert driver_class(library=other).library == other


@pytest.mark.parametrize(
    ("options", "option"),
    [
        ({"library": "psycopg2"}, "library"),
        ({"library": "psycopg", "command_timeout": 1.0}, "command_timeout"),
        ({"library": "asyncpg", "autocommit": False}, "autocommit"),
        ({"library": "psycopg", "autocommit": "yes"}, "autocommit"),
    ],
)
def test_what_a_library_does_not_know_is_refused(options: dict[str, Any], option: str) -> None:
    """An option that did nothing would be a lie in the configuration."""
    with pytest.raises(ValueError, match=f"^{option}: "):
        PostgreSQLDriver(**options)


async def test_a_url_chooses_the_library(psycopg: Psycopg) -> None:
    """As every other option."""
    server = psycopg.server
    url = f"{server.dsn(database=psycopg.database)}?library=psycopg&autocommit=no&statement_cache_size=0"
    pool = create_pool(url, max_size=1)

    async with pool.acquire() as conn:
        found = (type(conn).__mro__[1], conn.autocommit, conn.prepare_threshold)
    await pool.close()

    assert found == (library.AsyncConnection, False, None)


async def test_the_environment_does_not_say_where_to(
    psycopg: Psycopg, opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """The library under psycopg reads two dozen variables; what decides about the session is the options'."""
    for name, value in {
        "PGHOSTADDR": "127.0.0.2", "PGHOST": "elsewhere", "PGPORT": str(free_port()), "PGSSLMODE": "require",
        "PGTARGETSESSIONATTRS": "standby", "PGOPTIONS": "-c work_mem=9MB", "PGAPPNAME": "another",
        "PGCLIENTENCODING": "latin1", "PGGSSENCMODE": "require", "PGPASSWORD": "wrong",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)

    conn = await opened(psycopg.driver(ssl="disable"))

    assert await psycopg.value(conn, "SHOW application_name") == psycopg.application_name
    assert await psycopg.value(conn, "SHOW work_mem") != "9MB"
    assert conn.info.encoding == "utf-8"


@pytest.mark.parametrize("by", ["environment", "file"])
async def test_a_password_may_stand_where_libpq_looks_for_it(
    psycopg: Psycopg, opened: Opened, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, by: str
) -> None:
    """Without an option it is PGPASSWORD, or the password file; as with asyncpg."""
    password = psycopg.server.password
    if by == "environment":
        monkeypatch.setenv("PGPASSWORD", password)
    else:
        passwords = tmp_path / "passwords"
        passwords.write_text(f"*:*:*:*:{password}\n")
        passwords.chmod(0o600)
        monkeypatch.setenv("PGPASSFILE", str(passwords))

    conn = await opened(psycopg.driver(password=None))

    assert await psycopg.ask(conn, 1) == 1


@pytest.mark.parametrize("text", ["two words", "back\\slash", "a 'quote'", "-c x=y", "tab\there", "ünï"])
async def test_a_setting_arrives_as_it_was_given(psycopg: Psycopg, opened: Opened, text: str) -> None:
    """Settings travel in one text, in which spaces and backslashes have a meaning."""
    conn = await opened(psycopg.driver(server_settings={"mill.word": text}))

    assert await psycopg.value(conn, "SHOW mill.word") == text


async def test_a_connection_shows_no_password(psycopg: Psycopg, opened: Opened) -> None:
    """It is in libpq, which tells it to whoever asks for it by name; nothing else does."""
    conn = await opened(psycopg.driver())
    password = psycopg.server.password

    assert password not in repr(conn) + repr(vars(conn)) + conn.info.dsn
    assert password not in repr(conn.info.get_parameters())


async def test_each_address_of_a_name_is_tried(psycopg: Psycopg, opened: Opened) -> None:
    """Nobody listens at the first of them, wherever localhost is an IPv6 address too."""
    conn = await opened(psycopg.driver(host="localhost"))

    assert conn.info.hostaddr == "127.0.0.1"
    assert conn.info.host == "localhost"


async def test_a_host_that_is_not_there_may_be_there_later(psycopg: Psycopg) -> None:
    """A name service has bad days; the error says which option it is about."""
    driver = psycopg.driver(host="no-such-host.invalid")

    with pytest.raises(library.OperationalError, match=r"no-such-host\.invalid") as caught:
        await driver.connect()

    assert not driver.is_permanent(caught.value)
    assert driver.key_of(caught.value) == "host"


@pytest.mark.parametrize(
    ("words", "key", "is_permanent"),
    [
        ('FATAL:  password authentication failed for user "ann"', "password", True),
        ("fe_sendauth: no password supplied", "password", True),
        ('FATAL:  no pg_hba.conf entry for host "::1", user "ann"', "user", True),
        ('FATAL:  Peer authentication failed for user "ann"', "user", True),
        ('FATAL:  role "ann" is not permitted to log in', "user", True),
        ('FATAL:  database "mill" does not exist', "database", True),
        ('FATAL:  permission denied for database "mill"', "database", True),
        ('FATAL:  unrecognized configuration parameter "grain"', "server_settings", True),
        ('FATAL:  parameter "fsync" cannot be changed now', "server_settings", True),
        ("SSL error: certificate verify failed", "ssl", True),
        ('server certificate for "a" does not match host name "b"', "ssl", True),
        ("failed: Connection refused\n\tIs the server running on that host", "port", False),
        ("FATAL:  sorry, too many clients already", None, False),
        ("FATAL:  the database system is starting up", None, False),
        ("FATAL:  the database system is shutting down", None, False),
        ("server closed the connection unexpectedly", None, False),
        # What is said in another language nobody knows to be for ever: it is tried again.
        ('FATAL:  Datenbank "mill" existiert nicht', None, False),
    ],
)
def test_only_what_time_does_not_heal_is_permanent(words: str, key: str | None, is_permanent: bool) -> None:
    """A pool that stops trying must be right about it; libpq tells it in words alone."""
    driver = PostgreSQLDriver(library="psycopg", password="planted")
    asking = PostgreSQLDriver(library="psycopg", password=lambda: "planted")
    error = library.OperationalError(f"connection failed: {words}")

    assert driver.is_permanent(error) is is_permanent
    assert driver.key_of(error) == key
    assert asking.is_permanent(error) is (is_permanent and key not in ("password", "user"))


async def test_the_words_of_a_statement_are_no_refusal(psycopg: Psycopg, opened: Opened) -> None:
    """A borrower may provoke any text; it is the server's code that counts then."""
    driver = psycopg.driver()
    conn = await opened(driver)

    with pytest.raises(library.Error) as caught:
        await conn.execute("DO $$ BEGIN RAISE 'password authentication failed for user x'; END $$")

    assert not driver.is_permanent(caught.value)


# A libpq before version 17 can send a cancel request only by blocking; Debian's may be such a one.
OLDER = """
import asyncio, json, sys, time
import psycopg
from millpond.driver import Verdict
from millpond.drivers.postgresql import PostgreSQLDriver

async def main():
    driver = PostgreSQLDriver(**json.load(sys.stdin))
    conn = await driver.connect()
    await driver.ping(conn)
    task = asyncio.create_task(conn.execute("SELECT pg_sleep(30)"))
    while conn.info.transaction_status.name != "ACTIVE":
        await asyncio.sleep(0.01)
    before = time.monotonic()
    task.cancel()
    (outcome,) = await asyncio.gather(task, return_exceptions=True)
    quick = time.monotonic() - before < 5
    cancelled = isinstance(outcome, asyncio.CancelledError)
    verdict = driver.after_lease(conn, outcome)
    driver.terminate(conn)
    following = await driver.connect()
    await driver.reset(following)
    ((answer,),) = await (await following.execute("SELECT 7")).fetchall()
    await driver.close(following)
    safe = psycopg.capabilities.has_cancel_safe()
    right = Verdict.RESET if safe else Verdict.DISCARD
    print(json.dumps([psycopg.pq.__impl__, quick, cancelled, verdict is right, answer]))

asyncio.run(main())
"""


async def test_it_works_without_the_compiled_library_and_with_the_systems_libpq(psycopg: Psycopg) -> None:
    """Where that cannot cancel without blocking, a cancelled statement costs the connection."""
    ran = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-W", "error", "-c", OLDER],
        input=json.dumps(psycopg.options),
        env={**os.environ, "PSYCOPG_IMPL": "python"},
        capture_output=True,
        text=True,
        check=False,
        timeout=50,
    )

    assert ran.stderr == ""
    assert json.loads(ran.stdout) == ["python", True, True, True, 7]


async def test_a_frozen_server_lets_go_of_a_cancelled_connect(
    postgres_server_factory: Callable[..., PostgresServer],
) -> None:
    """At once; psycopg by itself would leave the session to the garbage collector."""
    backend = Psycopg(postgres_server_factory(), "app")
    driver = backend.driver()
    backend.server.freeze()

    def open_sockets() -> int:
        return sum(os.readlink(f"/proc/self/fd/{each}").startswith("socket:") for each in descriptors())

    before = open_sockets()
    task = asyncio.create_task(driver.connect())

    async def is_connecting() -> bool:
        return open_sockets() > before

    await until(is_connecting)
    task.cancel()
    await asyncio.wait({task}, timeout=5.0)
    after = open_sockets()
    backend.server.thaw()

    assert task.cancelled()
    assert after == before


def descriptors() -> list[str]:
    """Of this process, but for the one that is open to look."""
    return [each for each in os.listdir("/proc/self/fd") if os.path.lexists(f"/proc/self/fd/{each}")]
