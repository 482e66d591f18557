"""Options of the MySQL driver: what it refuses before it connects anywhere, and what a URL says."""

import asyncmy.errors
import pymysql.err
import pytest

from millpond.drivers.mysql import MySQLDriver

NO_SECRET = "hunter2"


@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("library", "mysqlclient"),
        ("host", ""),
        ("host", "one,two"),
        ("port", 0),
        ("port", "3306"),
        ("database", ""),
        ("user", 7),
        ("password", 7),
        ("ssl", "maybe"),
        ("ssl_root_cert", "root.pem"),
        ("ssl_key", "key.pem"),
        ("session", "primary"),
        ("application_name", ""),
        ("application_name", "x" * 65),
        ("autocommit", 1),
        ("charset", "latin1"),
        ("collation", "utf8mb4_bin; DROP TABLE x"),
        ("server_settings", ["time_zone"]),
        ("server_settings", {"time_zone": None}),
        ("server_settings", {"time_zone = 1, autocommit": 1}),
        ("server_settings", {"AutoCommit": 1}),
        ("server_settings", {"max_statement_time": 1}),
        ("init_statements", "SET @x = 1"),
        ("init_statements", ["SET @x = 1", ""]),
        ("init_statements", [1]),
        ("statement_timeout", 0),
        ("statement_timeout", 0.0001),
        ("statement_timeout", 1e9),
        ("tcp_keepalive", 0.0),
        ("tcp_user_timeout", "30"),
    ],
)
def test_a_wrong_value_is_refused_with_the_option_named(option: str, value: object) -> None:
    """Whoever wrote it reads which option is wrong, at once."""
    with pytest.raises(ValueError, match=f"^{option}: "):
        MySQLDriver(**{option: value})  # type: ignore[arg-type]


def test_tls_on_a_unix_socket_is_refused() -> None:
    """To ask for it and get none would be a surprise."""
    with pytest.raises(ValueError, match=r"^ssl: a Unix socket"):
        MySQLDriver(host="/run/mysqld.sock", ssl="require")


@pytest.mark.parametrize(
    ("url", "options"),
    [
        ("mysql://", {}),
        ("mariadb://db.example", {"host": "db.example"}),
        (
            "mysql://ann:s%40crt@db.example:3307/orders",
            {"host": "db.example", "port": 3307, "database": "orders", "user": "ann", "password": "s@crt"},
        ),
        ("mysql://ann@/d?unix_socket=/run/s.sock", {"user": "ann", "database": "d", "host": "/run/s.sock"}),
        (
            "mysql://h/d?ssl_mode=VERIFY_IDENTITY&ssl_ca=/ca&session=any&library=aiomysql",
            {"host": "h", "database": "d", "ssl": "verify-full", "ssl_root_cert": "/ca", "session": "any",
             "library": "aiomysql"},
        ),
        ("MYSQL://h/?charset=utf8mb4&statement_timeout=1.5&autocommit=off&program_name=mill",
         {"host": "h", "charset": "utf8mb4", "statement_timeout": 1.5, "autocommit": False,
          "application_name": "mill"}),
    ],
)  # fmt: skip
def test_a_url_says_what_it_says(url: str, options: dict[str, object]) -> None:
    """Each part becomes an option, and the driver takes them."""
    found = MySQLDriver.options_from_url(url)

    assert found == options
    MySQLDriver(**found)


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://ann:{NO_SECRET}@h/d",
        f"mysql+aiomysql://ann:{NO_SECRET}@h/d",
        f"mysql://ann:{NO_SECRET}@h:port/d",
        f"mysql://ann:{NO_SECRET}@h/d?sslmod=require",
        f"mysql://ann:{NO_SECRET}@h/d?port=many",
        f"mysql://ann:{NO_SECRET}@h/d?unix_socket=/other",
        f"mysql://ann:{NO_SECRET}@h/d?autocommit=perhaps",
        f"mysql://ann:x?{NO_SECRET}=y@h/d",
    ],
)
def test_a_wrong_url_is_refused_without_its_password(url: str) -> None:
    """The message goes to a log; the URL does not."""
    with pytest.raises(ValueError, match="URL") as caught:
        MySQLDriver.options_from_url(url)

    assert NO_SECRET not in str(caught.value)
    assert caught.value.__cause__ is None


def test_a_driver_shows_where_it_connects_and_no_secret() -> None:
    """Its repr may go to any log."""
    driver = MySQLDriver(host="h", port=1, database="d", user="ann", password=NO_SECRET)

    assert repr(driver) == "<MySQLDriver ann@h:1/d>"
    assert driver.redact(f"no {NO_SECRET}") == "no ***"


@pytest.mark.parametrize("library", ["asyncmy", "aiomysql"])
@pytest.mark.parametrize(
    ("code", "is_permanent", "key"),
    [
        (1045, True, "password"),
        (1698, True, "password"),
        (1044, True, "database"),
        (1049, True, "database"),
        (2059, True, None),
        (1040, False, None),
        (1129, False, None),
        (1203, False, None),
        (1226, False, None),
        (2003, False, None),
        (2013, False, None),
    ],
)
def test_only_what_time_does_not_heal_is_permanent(
    library: str, code: int, is_permanent: bool, key: str | None
) -> None:
    """A pool that stops trying must be right about it."""
    error = {"asyncmy": asyncmy.errors, "aiomysql": pymysql.err}[library].OperationalError(code, "x")
    driver = MySQLDriver(library=library, password=NO_SECRET)  # type: ignore[arg-type]

    assert driver.is_permanent(error) is is_permanent
    assert driver.key_of(error) == key
    assert not MySQLDriver(library=library).is_permanent(ValueError(code))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["x" * 65, "ends with space ", "wave \U0001f30a"])
def test_a_name_that_no_table_can_have_is_refused(name: str) -> None:
    """64 characters, none of them beyond U+FFFF, and no space at the end."""
    with pytest.raises(ValueError, match="identifier"):
        MySQLDriver.quote_identifier(name)
    assert MySQLDriver.quote_identifier("x" * 64)
