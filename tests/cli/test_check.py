"""`millpond check`: one line for each connection, one for each fault, and a status that a script can use."""

import re
import socket
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from millpond.gateway.modules import KINDS
from tests.cli.command import Ran, check, here, millpond, write
from tests.gateway.service import postgresql
from tests.servers import PostgresServer, free_port

SECRET = "planted-secret"
SQLITE = {"type": "sqlite", "database": "var/events.db"}


def assert_one_line(ran: Ran, status: int, *words: str) -> None:
    """Nothing but one clear line on standard error, with these words and no secret in it."""
    assert ran.status == status, ran
    (line,) = ran.complaints
    assert line.startswith("millpond: ")
    for word in words:
        assert word in line
    assert SECRET not in ran.out + ran.err


def test_all_well(tmp_path: Path, postgres: PostgresServer) -> None:
    """A line each, aligned; exit status 0, and nothing on standard error."""
    connections = {"events": SQLITE, "orders": postgresql(postgres)}
    hooks = {"webhooks": [{"path": "/x", "modules": [{"type": "postgresql", "connection": "orders"}]}]}

    ran = check(tmp_path, connections, hooks)

    assert (ran.status, ran.err) == (0, "")
    head, events, orders = ran.out.splitlines()
    assert head.split() == ["name", "kind", "state", "connect", "server"]
    assert re.fullmatch(r"events  sqlite      ok +\d+\.\d ms  SQLite 3[.\d]+", events)
    assert re.fullmatch(r"orders  postgresql  ok +\d+\.\d ms  PostgreSQL \d+\.\d+", orders)
    assert events.index("SQLite") == orders.index("PostgreSQL") == head.index("server")
    assert max(map(len, (head, events, orders))) <= 80


@pytest.mark.parametrize(
    ("connections", "words"),
    [
        ("{", ["connections.json", "line 1"]),
        ("[]", ["connections.json", "object"]),
        ('{"a": {"type": "sqlite", "type": "x"}}', ["connections.json", "a.type", "stands there"]),
        ({"events": {**SQLITE, "pasword": SECRET}}, ["events.pasword", "not a known key"]),
        ({"events": {"type": "sqllite"}}, ["events.type", "sqlite"]),
        (
            {"events": {**SQLITE, "pool_min_size": 5, "pool_max_size": 2}},
            ["events", "pool_min_size", "pool_max_size"],
        ),
        ({"events": {**SQLITE, "pool_max_size": SECRET}}, ["events.pool_max_size"]),
        ({"events": {**SQLITE, "database": "${PLANTED_NOWHERE}"}}, ["events.database", "PLANTED_NOWHERE"]),
        ({"events": {**SQLITE, "pool_max_size": 10**400}}, ["events.pool_max_size", "1e+12"]),
        ({"events": {"type": "postgresql", "password": [SECRET]}}, ["events.password"]),
        ({"events": {"url": f"postgresql://u:{SECRET}@h:port/d"}}, ["events.url"]),
    ],
)
def test_a_wrong_file_is_one_line_that_says_where(tmp_path: Path, connections: Any, words: list[str]) -> None:
    """Exit status 2: something has to be changed."""
    assert_one_line(check(tmp_path, connections), 2, *words)


def test_it_is_the_same_as_a_process(tmp_path: Path) -> None:
    """What the other tests see in their own process is what people see."""
    write(tmp_path, "connections.json", {"events": SQLITE, "orders": {"type": "postgresql", "port": 0}})
    wrong = millpond("check", "--connections", "connections.json", directory=tmp_path)
    write(tmp_path, "connections.json", {"events": SQLITE})
    right = millpond("check", "--connections", "connections.json", directory=tmp_path)

    assert_one_line(wrong, 2, "orders.port")
    assert (right.status, right.err) == (0, "")


def test_every_fault_has_a_line_of_its_own(tmp_path: Path) -> None:
    """All of them at once, so that one round of mending is enough."""
    ran = check(tmp_path, {"one": {**SQLITE, "x": 1, "y": 2}, "two": {"type": "sqlite", "database": 5}})

    assert ran.status == 2
    assert len(ran.complaints) == 3


@pytest.mark.parametrize(
    ("hooks", "words"),
    [
        ("{", ["webhooks.json", "line 1"]),
        ({}, ["webhooks", "missing"]),
        ({"webhooks": [{"path": "x", "modules": []}]}, []),
        ({"webhooks": [], "webhoks": 1}, ["webhoks", "not a known key; did you mean 'webhooks'?"]),
    ],
)
def test_wrong_webhooks_are_told_too(tmp_path: Path, hooks: Any, words: list[str]) -> None:
    ran = check(tmp_path, {"events": SQLITE}, hooks)

    assert ran.status == 2
    assert all(line.startswith("millpond: webhooks.json: ") for line in ran.complaints)
    for word in words:
        assert word in ran.err


@pytest.mark.parametrize(
    ("module", "words"),
    [
        ({"connection": "evnts"}, ["connection", "/hook", "did you mean 'events'?"]),
        ({"connection": "events", "type": "postgresql"}, ["type", "/hook", "'events'", "'sqlite'"]),
        ({"connection": "events", "type": "mongodb"}, ["type", f"known: {', '.join(KINDS)}"]),
        ({"connection": "events", "columns": {"body": "body"}}, ["columns", "'body'", "$body"]),
        ({"connection": "events", "table": "a.b"}, ["table", "/hook"]),
        ({"connection": "events", "tabel": "x"}, ["tabel", "did you mean 'table'?"]),
    ],
)
def test_a_module_is_checked_against_its_connection(
    tmp_path: Path, module: dict[str, Any], words: list[str]
) -> None:
    """The line names the hook, the module and the connection."""
    hooks = {"webhooks": [{"path": "/hook", "modules": [{"type": "sqlite", **module}]}]}

    ran = check(tmp_path, {"events": SQLITE}, hooks)

    assert_one_line(ran, 2, "webhooks.json: webhooks[0].modules[0].", *words)


@pytest.mark.parametrize(
    ("paths", "words"),
    [
        (["/a", "/b", "/a"], ["webhooks[2].path", "/a", "more than once"]),
        (["/health/db"], ["webhooks[0].path", "/health"]),
        (["/admin"], ["webhooks[0].path", "/admin"]),
        (["/a?b=c"], ["webhooks[0].path"]),
    ],
)
def test_a_path_must_be_free(tmp_path: Path, paths: list[str], words: list[str]) -> None:
    """Each stands once, and none takes the service's own."""
    modules = [{"type": "sqlite", "connection": "events"}]
    hooks = {"webhooks": [{"path": path, "modules": modules} for path in paths]}

    assert_one_line(check(tmp_path, {"events": SQLITE}, hooks), 2, *words)


def test_references_work_in_webhooks_too(tmp_path: Path) -> None:
    """Also where a number is wanted; the same code reads both files."""
    module = {
        "type": "sqlite",
        "connection": "${NAME}",
        "timeout": "${SECONDS:-5}",
        "create_table": "${MAKE}",
    }
    hooks = {"webhooks": [{"path": "/${NAME}", "max_body_bytes": "${LIMIT}", "modules": [module]}]}

    ran = check(tmp_path, {"events": SQLITE}, hooks, NAME="events", LIMIT="1000", MAKE="true")

    assert (ran.status, ran.err) == (0, "")


def test_toml_and_yaml_say_the_same(tmp_path: Path) -> None:
    write(tmp_path, "connections.toml", '[events]\ntype = "sqlite"\ndatabase = "events.db"\n')
    write(
        tmp_path,
        "webhooks.yaml",
        "webhooks:\n- path: /x\n  modules:\n  - {type: sqlite, connection: events}\n",
    )

    ran = here(
        "check", "--connections", "connections.toml", "--webhooks", "webhooks.yaml", directory=tmp_path
    )

    assert (ran.status, ran.err) == (0, "")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"password": SECRET}, ["orders.password"]),
        ({"user": "nobody-here"}, ["orders"]),
        ({"database": "no_such_database"}, ["orders.database", "no_such_database"]),
    ],
)
def test_what_a_database_refuses_for_good_has_to_be_changed(
    tmp_path: Path, postgres: PostgresServer, change: dict[str, Any], words: list[str]
) -> None:
    """Wrong password, unknown user, unknown database: exit status 2."""
    ran = check(tmp_path, {"orders": {**postgresql(postgres), **change}})

    assert_one_line(ran, 2, "connections.json: ", *words)
    assert postgres.password not in ran.out + ran.err
    assert re.search(r"^orders  postgresql  misconfigured$", ran.out, re.MULTILINE)


def test_a_file_that_is_no_database_has_to_be_changed(tmp_path: Path) -> None:
    write(tmp_path, "text.db", "this is no database, but long enough to be looked at as one" * 100)

    ran = check(tmp_path, {"events": {"type": "sqlite", "database": "text.db"}})

    assert_one_line(ran, 2, "connections.json: events.database: ", "file is not a database")


@pytest.mark.parametrize(
    ("change", "key", "words"),
    [
        ({"database": "/proc/nodir/x.db"}, "database", "its directory cannot be made"),
        ({"database": "missing.db", "create": False}, "database", "there is no such file"),
        ({"pragmas": {"cache_sise": 1}}, "pragmas", "has no 'cache_sise'"),
    ],
)
def test_a_database_that_cannot_be_opened_is_named_by_its_key(
    tmp_path: Path, change: dict[str, Any], key: str, words: str
) -> None:
    """Exit status 2, and `serve` does not begin."""
    ran = check(tmp_path, {"events": {**SQLITE, **change}})
    served = here("serve", "--connections", "connections.json", directory=tmp_path)

    assert_one_line(ran, 2, f"connections.json: events.{key}: is refused: ", words)
    assert_one_line(served, 2, f"connections.json: events.{key}: is refused: ", words)


def test_a_database_that_another_has_locked_is_named_by_its_key_too(tmp_path: Path) -> None:
    """That may pass: exit status 1."""
    other = sqlite3.connect(tmp_path / "x.db")
    other.execute("BEGIN EXCLUSIVE")

    ran = check(tmp_path, {"events": {"type": "sqlite", "database": "x.db", "busy_timeout": 0}})
    other.close()

    assert_one_line(ran, 1, "connections.json: events.database: cannot be reached: ", "locked")


@pytest.mark.parametrize("make", [None, "directory", "file"])
def test_a_unix_socket_that_is_not_there_is_named_with_its_path(tmp_path: Path, make: str | None) -> None:
    """No directory, no socket in it, no directory but a file; the server may not have been started."""
    place = tmp_path / "sockets"
    if make == "directory":
        place.mkdir()
    elif make == "file":
        place.touch()

    ran = check(tmp_path, {"orders": {"type": "postgresql", "host": str(place), "user": "u"}})

    assert_one_line(ran, 1, "connections.json: orders.host: cannot be reached: ", f"'{place}/.s.PGSQL.5432'")


@pytest.mark.parametrize("content", [{}, "{}", '{"$schema": "x"}'])
def test_no_connections_is_said(tmp_path: Path, content: Any) -> None:
    """Nothing is wrong with that, but an empty line would not say so."""
    ran = check(tmp_path, content)

    assert (ran.status, ran.out, ran.err) == (0, "no connections\n", "")


@pytest.mark.parametrize("change", [{"port": None}, {"host": "no-such-host.invalid"}])
def test_a_backend_that_is_not_there_is_not_the_files_fault(
    tmp_path: Path, postgres: PostgresServer, change: dict[str, Any]
) -> None:
    """Refused, unknown host: exit status 1."""
    there = postgresql(postgres)
    change = {key: free_port() if value is None else value for key, value in change.items()}

    ran = check(tmp_path, {"orders": {**there, **change}, "events": SQLITE})

    assert_one_line(ran, 1, "connections.json: orders", "cannot be reached")
    _, orders, events = ran.out.splitlines()
    assert re.fullmatch(r"orders  postgresql  unreachable", orders)
    assert re.fullmatch(r"events  sqlite      ok +\d+\.\d ms  SQLite 3[.\d]+", events)


URL = f"postgresql://app:{SECRET}@db/app"


@pytest.mark.parametrize(
    "connections",
    [
        {URL: {"type": "sqllite", "database": 5}},
        {URL: SECRET},
        {URL: SQLITE, "events": SQLITE},
        {"events": {**SQLITE, URL: 1}},
        {"events": {**SQLITE, "pool": {URL: 1}}},
        {"events": {**SQLITE, "pragmas": {URL: 1}}},
        f'{{"{URL}": 1, "{URL}": 1}}',
        {f"password={SECRET}": SQLITE},
    ],
)
def test_a_secret_in_the_place_of_a_name_is_told_once_and_not_repeated(
    tmp_path: Path, connections: Any
) -> None:
    """A refused name is one fault; what stands below it is not looked at."""
    assert_one_line(check(tmp_path, connections), 2, "connections.json: ", "***")


@pytest.mark.parametrize(
    "module",
    [{"connection": URL}, {"columns": {URL: "/a"}, "table": ""}, {"columns": {URL: "a"}}, {URL: 1}],
)
def test_nor_is_one_in_the_webhooks(tmp_path: Path, module: dict[str, Any]) -> None:
    """Of connections, columns and keys."""
    modules = [{"type": "sqlite", "connection": "events", **module}]

    assert_one_line(
        check(tmp_path, {"events": SQLITE}, {"webhooks": [{"path": "/x", "modules": modules}]}), 2
    )


def test_a_url_is_never_repeated(tmp_path: Path) -> None:
    """It holds the password; neither a backend that is gone nor a fault beside it brings it out."""
    url = f"postgresql://app:{SECRET}@127.0.0.1:{free_port()}/app?application_name={SECRET}"

    assert_one_line(
        check(tmp_path, {"orders": {"url": url}}), 1, "connections.json: orders", "cannot be reached"
    )
    assert_one_line(check(tmp_path, {"orders": {"url": url, "host": "h"}}), 2, "orders.host", "url")
    assert_one_line(check(tmp_path, {"orders": {"url": url, "type": "sqlite"}}), 2, "orders.url", "sqlite://")


def test_a_backend_that_does_not_answer_is_given_up_in_time(tmp_path: Path) -> None:
    """Something listens and says nothing: exit status 1 after the timeout."""
    with socket.socket() as silent:
        silent.bind(("127.0.0.1", 0))
        silent.listen()
        port = silent.getsockname()[1]

        ran = check(
            tmp_path, {"orders": {"type": "postgresql", "host": "127.0.0.1", "port": port, "user": "u"}}
        )

    assert_one_line(ran, 1, "connections.json: orders", "cannot be reached")


def test_both_kinds_of_trouble_are_told_and_the_worse_one_counts(
    tmp_path: Path, postgres: PostgresServer
) -> None:
    there = postgresql(postgres)

    ran = check(tmp_path, {"one": {**there, "port": free_port()}, "two": {**there, "password": SECRET}})

    assert ran.status == 2
    assert len(ran.complaints) == 2
    assert SECRET not in ran.out + ran.err


def test_a_database_that_comes_up_is_waited_for_by_nobody(
    tmp_path: Path, postgres_server_factory: Callable[..., PostgresServer]
) -> None:
    """Frozen: accepts, does not answer; the command ends all the same."""
    server = postgres_server_factory()
    server.freeze()

    ran = check(tmp_path, {"orders": postgresql(server)})
    server.thaw()

    assert_one_line(ran, 1, "connections.json: orders", "cannot be reached")
