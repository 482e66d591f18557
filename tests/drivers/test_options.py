"""Options: what a driver refuses before it connects anywhere, and what a URL says."""

import asyncpg
import pytest

from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.drivers.sqlite import SQLiteDriver

NO_SECRET = "hunter2"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("host", ""),
        ("host", "one,two"),
        ("host", None),
        ("port", 0),
        ("port", 65536),
        ("port", True),
        ("port", "5432"),
        ("database", ""),
        ("user", 7),
        ("password", 7),
        ("ssl", "maybe"),
        ("ssl_root_cert", "root.pem"),
        ("ssl_key", "key.pem"),
        ("ssl_cert", "cert.pem"),
        ("session", "primary"),
        ("application_name", ""),
        ("server_settings", ["work_mem"]),
        ("server_settings", {"work_mem": 4}),
        ("server_settings", {"application_name": "twice"}),
        ("statement_timeout", 0),
        ("statement_timeout", 0.0001),
        ("statement_timeout", 1e10),
        ("statement_timeout", float("nan")),
        ("command_timeout", -1.0),
        ("statement_cache_size", -1),
        ("tcp_keepalive", 0.0),
        ("tcp_keepalive", 10**400),
        ("statement_cache_size", 10**400),
        ("tcp_user_timeout", "30"),
    ],
)
def test_postgresql_refuses_a_value_and_names_the_option(option: str, value: object) -> None:
    """Whoever wrote it reads which option is wrong, at once."""
    with pytest.raises(ValueError, match=f"^{option}: "):
        PostgreSQLDriver(**{option: value})  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("database", ""),
        ("database", None),
        ("database", "file:x?mode=memory"),
        ("database", "nul\0"),
        ("create", 1),
        ("journal_mode", "WAL"),
        ("synchronous", 2),
        ("foreign_keys", "yes"),
        ("busy_timeout", -1),
        ("busy_timeout", None),
        ("isolation_level", "serializable"),
        ("row_factory", "dict"),
        ("pragmas", {"cache_size; DROP TABLE x": 1}),
        ("pragmas", {"journal_mode": "off"}),
        ("pragmas", {"cache_size": None}),
    ],
)
def test_sqlite_refuses_a_value_and_names_the_option(option: str, value: object) -> None:
    """Whoever wrote it reads which option is wrong, at once."""
    options = {"database": "x.db", option: value}

    with pytest.raises(ValueError, match=f"^{option}: "):
        SQLiteDriver(**options)  # type: ignore[arg-type]


def test_a_statement_timeout_given_twice_is_refused() -> None:
    """Two values for one thing leave open which counts."""
    with pytest.raises(ValueError, match="statement_timeout"):
        PostgreSQLDriver(statement_timeout=1.0, server_settings={"statement_timeout": "5s"})


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("postgresql://", {}),
        ("postgres://db.example", {"host": "db.example"}),
        (
            "postgresql://ann:s%40crt@db.example:6543/orders",
            {"host": "db.example", "port": 6543, "database": "orders", "user": "ann", "password": "s@crt"},
        ),
        ("postgresql://ann:p@s/d@h/d", {"host": "h", "database": "d", "user": "ann", "password": "p@s/d"}),
        ("postgresql://[::1]:6543/d", {"host": "::1", "port": 6543, "database": "d"}),
        ("postgresql://%2Frun%2FPostgreSQL/d", {"host": "/run/PostgreSQL", "database": "d"}),
        ("postgresql:///d?host=/run/pg&port=1", {"host": "/run/pg", "port": 1, "database": "d"}),
        (
            "postgresql://h/d?sslmode=verify-full&sslrootcert=/ca&target_session_attrs=any",
            {"host": "h", "database": "d", "ssl": "verify-full", "ssl_root_cert": "/ca", "session": "any"},
        ),
        ("POSTGRESQL://h/?statement_timeout=1.5&statement_cache_size=0",
         {"host": "h", "statement_timeout": 1.5, "statement_cache_size": 0}),
    ],
)  # fmt: skip
def test_a_postgresql_url_says_what_it_says(url: str, options: dict[str, object]) -> None:
    """Each part becomes an option, and the driver takes them."""
    found = PostgreSQLDriver.options_from_url(url)

    assert found == options
    PostgreSQLDriver(**found)


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("sqlite://", {"database": ":memory:"}),
        ("sqlite:///:memory:", {"database": ":memory:"}),
        ("sqlite:///var/app.db", {"database": "var/app.db"}),
        ("sqlite:////var/app%20one@home.db", {"database": "/var/app one@home.db"}),
        (
            "sqlite:///a.db?create=false&busy_timeout=0.5&journal_mode=delete",
            {"database": "a.db", "create": False, "busy_timeout": 0.5, "journal_mode": "delete"},
        ),
    ],
)
def test_a_sqlite_url_says_what_it_says(url: str, options: dict[str, object]) -> None:
    """Three slashes begin a relative path, four an absolute one."""
    found = SQLiteDriver.options_from_url(url)

    assert found == options
    SQLiteDriver(**found)


@pytest.mark.parametrize(
    "url",
    [
        f"mysql://ann:{NO_SECRET}@h/d",
        f"ann:{NO_SECRET}@h/d",
        f"postgresql://ann:{NO_SECRET}@h:port/d",
        f"postgresql://ann:{NO_SECRET}@one,two/d",
        f"postgresql://ann:{NO_SECRET}@[::1/d",
        f"postgresql://ann:{NO_SECRET}@h/d?nothing",
        f"postgresql://ann:{NO_SECRET}@h/d?sslmod=require",
        f"postgresql://ann:{NO_SECRET}@h/d?port=many",
        f"postgresql://ann:{NO_SECRET}@h/d?host=other",
        f"postgresql://ann:{NO_SECRET}@h/d?sslmode=require&ssl=require",
        f"postgresql://ann:{NO_SECRET}@h/d?sslmode=require&sslmode=require",
        f"postgresql://ann:x?{NO_SECRET}=y@h/d",
        f"postgresql://ann:x#{NO_SECRET}@h/d",
        f"postgresql://ann:x/{NO_SECRET}:h/d",
        f"postgresql://ann:{NO_SECRET}%ff@h/d",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    """The message goes to a log; the URL does not."""
    with pytest.raises(ValueError, match="URL") as caught:
        PostgreSQLDriver.options_from_url(url)

    assert NO_SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


@pytest.mark.parametrize(
    "url", ["sqlite:/x.db", "sqlite://x.db", "sqlite:///x.db?database=y", "file:///x.db"]
)
def test_a_wrong_sqlite_url_is_refused(url: str) -> None:
    """Two slashes would take the path for a host."""
    with pytest.raises(ValueError, match="URL"):
        SQLiteDriver.options_from_url(url)


def test_a_driver_shows_where_it_connects_and_no_secret() -> None:
    """Its repr may go to any log."""
    driver = PostgreSQLDriver(host="h", port=1, database="d", user="ann", password=NO_SECRET)

    assert repr(driver) == "<PostgreSQLDriver ann@h:1/d>"
    assert repr(SQLiteDriver(database="x.db")) == "<SQLiteDriver x.db>"


def test_a_password_is_masked_however_it_is_spelled() -> None:
    """Plain, quoted for a URL in either way, in JSON and in a repr."""
    secret = "p@ss wörd/\"'\\x"
    driver = PostgreSQLDriver(password=secret)
    spellings = [
        secret,
        "p%40ss%20w%C3%B6rd/%22%27%5Cx",
        "p%40ss+w%C3%B6rd%2F%22%27%5Cx",
        '"p@ss w\\u00f6rd/\\"\'\\\\x"',
        repr(secret),
    ]

    for spelling in spellings:
        assert "ss" not in driver.redact(f"<{spelling}>"), spelling


def test_the_password_of_the_environment_is_masked_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asyncpg reads PGPASSWORD where the configuration names none."""
    monkeypatch.setenv("PGPASSWORD", NO_SECRET)

    assert PostgreSQLDriver().redact(f"no {NO_SECRET}") == "no ***"


@pytest.mark.parametrize(
    ("error", "is_permanent"),
    [
        (asyncpg.InvalidPasswordError("x"), True),
        (asyncpg.InvalidAuthorizationSpecificationError("x"), True),
        (asyncpg.InvalidCatalogNameError("x"), True),
        (asyncpg.TooManyConnectionsError("x"), False),
        (asyncpg.CannotConnectNowError("x"), False),
        (ConnectionRefusedError(111, "refused"), False),
        (OSError(-2, "name or service not known"), False),
        (TimeoutError(), False),
    ],
)
def test_only_what_time_does_not_heal_is_permanent(error: Exception, is_permanent: bool) -> None:
    """A pool that stops trying must be right about it."""
    assert PostgreSQLDriver(password=NO_SECRET).is_permanent(error) is is_permanent


def test_a_password_that_is_asked_for_may_be_right_next_time() -> None:
    """An expired token is no reason to give up."""
    driver = PostgreSQLDriver(password=lambda: NO_SECRET)

    assert not driver.is_permanent(asyncpg.InvalidPasswordError("x"))
    assert driver.is_permanent(asyncpg.InvalidCatalogNameError("x"))


def test_postgresql_refuses_a_name_that_it_would_cut_off() -> None:
    """64 bytes would name whatever has the first 63 of them."""
    assert PostgreSQLDriver.quote_identifier("x" * 63)
    with pytest.raises(ValueError, match="63 bytes"):
        PostgreSQLDriver.quote_identifier("ä" * 32)
