"""What a connection's configuration may say: what it means, and one line for each fault."""

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.drivers.sqlite import SQLiteDriver
from millpond.errors import ConfigError
from millpond.registry.load import load_connections
from millpond.registry.model import ConnectionConfig, connection_config
from millpond.settings import PoolSettings
from tests.registry.conftest import bare_driver
from tests.registry.known import KNOWN_KINDS, KNOWN_SCHEMES

Write = Callable[..., str]
Install = Callable[..., None]

POSTGRES: Mapping[str, Any] = {"type": "postgresql", "host": "db", "user": "miller", "password": "grain"}
SQLITE: Mapping[str, Any] = {"type": "sqlite", "database": "mill.db"}


def config(values: Mapping[str, Any]) -> ConnectionConfig:
    return connection_config("orders", values)


def problems(values: object) -> tuple[str, ...]:
    """What is wrong with the connection `orders`."""
    with pytest.raises(ConfigError) as caught:
        connection_config("orders", values)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value.problems


def postgres(**more: Any) -> dict[str, Any]:
    return {**POSTGRES, **more}


def sqlite(**more: Any) -> dict[str, Any]:
    return {**SQLITE, **more}


def test_the_reference_spelling_is_understood() -> None:
    """Every key of the published description, at once."""
    found = config({
        "type": "postgresql", "host": "db", "port": 5433, "database": "mill", "user": "miller",
        "password": "grain", "pool_min_size": 3, "pool_max_size": 7, "acquisition_timeout": 2.5,
    })  # fmt: skip

    driver = found.make_driver()
    assert isinstance(driver, PostgreSQLDriver)
    assert (driver.host, driver.port, driver.database, driver.user) == ("db", 5433, "mill", "miller")
    assert found.settings == PoolSettings(min_size=3, max_size=7, acquire_timeout=2.5)
    assert (found.name, found.kind) == ("orders", "postgresql")


@pytest.mark.parametrize(
    ("values", "sizes"),
    [
        (POSTGRES, (2, 10)),
        (SQLITE, SQLiteDriver.default_sizes),
        (postgres(pool_max_size=1), (1, 1)),
        (postgres(pool={"max_size": 1}), (1, 1)),
        (postgres(pool_min_size=12), (12, 12)),
        (postgres(pool_min_size=0, pool={"max_size": 3}), (0, 3)),
        (postgres(pool={"max_idle": 1}), (1, 10)),
    ],
)
def test_sizes_default_to_those_of_the_kind(values: Mapping[str, Any], sizes: tuple[int, int]) -> None:
    """And bend to what was given."""
    settings = config(values).settings

    assert (settings.min_size, settings.max_size) == sizes


def test_every_setting_can_be_given_under_pool() -> None:
    """Whatever `PoolSettings` has, with null where it may be None."""
    pool = {
        "reset": "rollback", "max_lifetime": None, "max_uses": 100, "eager_init": True, "idle_timeout": 5,
        "lifetime_jitter": 0,
    }  # fmt: skip

    settings = config(postgres(pool=pool)).settings

    assert settings == PoolSettings(
        min_size=2, reset="rollback", max_lifetime=None, max_uses=100, eager_init=True, idle_timeout=5,
        lifetime_jitter=0,
    )  # fmt: skip


def test_options_of_the_driver_are_keys() -> None:
    """Numbers, choices, objects and null, as the constructor wants them."""
    found = config(postgres(ssl="disable", server_settings={"jit": "off"}, tcp_keepalive=None, database=None))

    assert dict(found.options) | {"password": None} == {
        "host": "db", "user": "miller", "password": None, "ssl": "disable", "server_settings": {"jit": "off"},
        "tcp_keepalive": None, "database": None,
    }  # fmt: skip


def test_a_url_says_the_same_as_its_parts() -> None:
    """The kind is told by its scheme, or said as well."""
    by_parts = config(postgres(port=5433, database="mill"))

    by_url = config({"url": "postgresql://miller:grain@db:5433/mill"})
    by_both = config({"type": "postgresql", "url": "postgres://miller:grain@db:5433/mill"})

    assert by_url.kind == "postgresql"
    assert by_url.make_driver().redact("grain") == "***"  # type: ignore[attr-defined]
    assert repr(by_url.make_driver()) == repr(by_parts.make_driver()) == repr(by_both.make_driver())


def test_a_url_leaves_room_for_what_it_does_not_say() -> None:
    """A password from elsewhere, an option that no URL has."""
    found = config({"url": "postgresql://miller@db", "password": "grain", "server_settings": {"jit": "off"}})

    assert set(found.options) == {"user", "host", "password", "server_settings"}
    assert found.make_driver().redact("grain") == "***"  # type: ignore[attr-defined]


def test_equal_configurations_are_equal() -> None:
    """Secrets count, spelling does not."""
    assert config(postgres(pool_max_size=5)) == config(postgres(pool={"max_size": 5}))
    assert config(postgres()) != config(postgres(password="flour"))
    assert config(postgres()) != config(postgres(pool_max_size=5))


def test_a_configuration_does_not_show_its_secrets() -> None:
    """Neither its text nor that of its options."""
    found = config({"url": "postgresql://miller:grain@db"})

    assert "grain" not in repr(found) + str(found) + repr(dict(found.options)) + repr(found.make_driver())


SETTINGS = "an object (each value a string) or null"
PORT = "a whole number >= 1 and <= 65535"


@pytest.mark.parametrize(
    ("values", "problem"),
    [
        ("postgresql://db", "orders: must be an object"),
        (None, "orders: must be an object"),
        ([], "orders: must be an object"),
        (
            {},
            f"orders.type: is missing, and there is no url that tells it; {KNOWN_KINDS}",
        ),
        (
            {"type": "postgres"},
            f"orders.type: is not a known kind; did you mean 'postgresql'?; {KNOWN_KINDS}",
        ),
        ({"type": "hunter2"}, f"orders.type: is not a known kind; {KNOWN_KINDS}"),
        ({"type": ["postgresql"]}, "orders.type: must be a string"),
        ({"type": None, "url": "sqlite:///x"}, "orders.type: must be a string"),
        ({"url": 5}, "orders.url: must be a string"),
        ({"url": None}, "orders.url: must be a string"),
        (postgres(url=5), "orders.url: must be a string"),
        ({"url": "hunter2"}, f"orders.url: has no known URL scheme; {KNOWN_SCHEMES}"),
        (
            {"url": "hunter2://db"},
            f"orders.url: has no known URL scheme; {KNOWN_SCHEMES}",
        ),
        (
            {"type": "postgresql", "url": "sqlite:///x"},
            "orders.url: must begin with postgresql:// or postgres://",
        ),
        ({"type": "sqlite"}, "orders.database: is missing; must be a string"),
        (sqlite(database=5), "orders.database: must be a string"),
        (postgres(port="5432"), f"orders.port: must be {PORT}"),
        (postgres(port=0), f"orders.port: must be {PORT}"),
        (postgres(port=65536), f"orders.port: must be {PORT}"),
        (postgres(port=True), f"orders.port: must be {PORT}"),
        (postgres(port=5432.0), f"orders.port: must be {PORT}"),
        (postgres(port=None), f"orders.port: must be {PORT}"),
        (postgres(host=["a", "b"]), "orders.host: must be a string"),
        (postgres(host=None), "orders.host: must be a string"),
        (postgres(host=""), "orders.host: must not be empty"),
        (postgres(password=5), "orders.password: must be a string or null"),
        (postgres(password=["hunter2"]), "orders.password: must be a string or null"),
        (
            postgres(ssl="hunter2"),
            "orders.ssl: must be one of 'disable', 'prefer', 'require', 'verify-ca', 'verify-full'",
        ),
        (postgres(server_settings=[]), f"orders.server_settings: must be {SETTINGS}"),
        (postgres(server_settings={"a": 1}), f"orders.server_settings: must be {SETTINGS}"),
        (postgres(statement_timeout=float("nan")), "orders.statement_timeout: must be a number or null"),
        (
            postgres(statement_timeout=-1),
            "orders.statement_timeout: must be a number of seconds > 0, or None, got -1.0",
        ),
        (postgres(ssl_key="hunter2"), "orders.ssl_key: is used only together with ssl_cert"),
        (
            postgres(ssl="prefer", ssl_cert="hunter2"),
            "orders.ssl_cert: is used only with ssl require or stricter, ssl is 'prefer'",
        ),
        (postgres(pasword="hunter2"), "orders.pasword: is not a known key; did you mean 'password'?"),
        (postgres(xyz="hunter2"), "orders.xyz: is not a known key"),
        (postgres(**{"${HOST}": "x"}), "orders.${HOST}: is not a known key"),
        (postgres(max_size=5), "orders.max_size: is not a known key; it belongs in pool: pool.max_size"),
        (postgres(pool_max_size=0), "orders.pool_max_size: must be a whole number >= 1"),
        (postgres(pool_max_size="ten"), "orders.pool_max_size: must be a whole number >= 1"),
        (postgres(pool_max_size=None), "orders.pool_max_size: must be a whole number >= 1"),
        (postgres(pool_min_size=-1), "orders.pool_min_size: must be a whole number >= 0"),
        (postgres(acquisition_timeout=-0.1), "orders.acquisition_timeout: must be a number >= 0 or null"),
        (postgres(acquisition_timeout="5"), "orders.acquisition_timeout: must be a number >= 0 or null"),
        (postgres(pool=5), "orders.pool: must be an object"),
        (postgres(pool=None), "orders.pool: must be an object"),
        (postgres(pool={"max_size": 0}), "orders.pool.max_size: must be a whole number >= 1"),
        (postgres(pool={"reset": "hunter2"}), "orders.pool.reset: must be one of 'none', 'rollback', 'full'"),
        (postgres(pool={"lifetime_jitter": 1}), "orders.pool.lifetime_jitter: must be a number >= 0 and < 1"),
        (postgres(pool={"eager_init": 1}), "orders.pool.eager_init: must be true or false"),
        (
            postgres(pool={"mx_size": 5}),
            "orders.pool.mx_size: is not a setting of the pool; did you mean 'max_size'?",
        ),
        (
            postgres(pool_min_size=5, pool_max_size=3),
            "orders: pool_min_size (5) must not be above pool_max_size (3); "
            "lower pool_min_size or raise pool_max_size",
        ),
        (
            postgres(pool={"min_size": 5, "max_size": 3}),
            "orders: pool.min_size (5) must not be above pool.max_size (3); "
            "lower pool.min_size or raise pool.max_size",
        ),
        (
            postgres(pool_min_size=5, pool={"max_size": 3}),
            "orders: pool_min_size (5) must not be above pool.max_size (3); "
            "lower pool_min_size or raise pool.max_size",
        ),
        (
            postgres(pool_min_size=5, pool={"max_idle": 3}),
            "orders: pool_min_size (5) must not be above pool.max_idle (3); "
            "lower pool_min_size or raise pool.max_idle",
        ),
        (
            postgres(pool_min_size=5, pool={"min_size": 5}),
            "orders.pool_min_size: says the same as pool.min_size; give one of them",
        ),
        (
            postgres(acquisition_timeout=5, pool={"acquire_timeout": 6}),
            "orders.acquisition_timeout: says the same as pool.acquire_timeout; give one of them",
        ),
        (
            {"url": "postgresql://db", "host": "db"},
            "orders.host: is said by url too; give one of them",
        ),
        (
            {"url": "postgresql://miller:grain@db", "password": "grain"},
            "orders.password: is said by url too; give one of them",
        ),
        (
            {"url": "postgresql://miller:grain@db/?sslmod=require"},
            "orders.url: the URL's key 'sslmod' is not an option; did you mean 'sslmode'?",
        ),
        (
            {"url": "postgresql://miller:grain@db:99999/"},
            "orders.url: port: must be a whole number from 1 to 65535, got 99999",
        ),
        (
            {"url": "postgresql://miller:grain@db:five/"},
            "orders.url: the URL's port is not a number (is a / or @ in the password not quoted?)",
        ),
    ],
)
def test_each_fault_is_one_line(values: object, problem: str) -> None:
    """It names the connection and the key, says what would be right, and repeats no text."""
    said = problems(values)

    assert said == (problem,)
    assert "hunter2" not in problem


def test_all_faults_are_told_at_once() -> None:
    """One reading of the file is enough to mend it."""
    said = problems(
        postgres(port=0, pasword="x", pool_max_size="x", pool_min_size=2, pool={"min_size": 3, "foo": 1})
    )

    assert set(said) == {
        f"orders.port: must be {PORT}",
        "orders.pasword: is not a known key; did you mean 'password'?",
        "orders.pool_max_size: must be a whole number >= 1",
        "orders.pool.foo: is not a setting of the pool",
        "orders.pool_min_size: says the same as pool.min_size; give one of them",
    }
    assert len(said) == 5


def test_a_key_that_cannot_be_printed_does_not_break_the_line() -> None:
    """One fault stays one line."""
    (said,) = problems(postgres(**{"a\nb\x1b[31m" + "x" * 500: 1}))

    assert said.isprintable()
    assert len(said) < 200


def loading(path: str, environ: Mapping[str, str] | None = None) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_connections(path, environ=environ or {})
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    return caught.value.problems


def test_a_file_is_read_whole_and_in_order(write: Write) -> None:
    """Its connections by name; nothing is opened."""
    path = write({"$schema": "s", "orders": POSTGRES, "stock": SQLITE})

    found = load_connections(path, environ={})

    assert [(name, each.kind) for name, each in found.configs.items()] == [
        ("orders", "postgresql"),
        ("stock", "sqlite"),
    ]
    assert found.label == "connections.json"


def test_a_file_without_connections_is_right(write: Write) -> None:
    """A service may start with nothing and be given its connections later."""
    assert load_connections(write({})).configs == {}


def test_the_faults_of_all_connections_are_told_with_the_file(write: Write) -> None:
    """Each line can stand alone."""
    path = write(
        {"orders": postgres(port=0), "bad name": SQLITE, "": SQLITE, "stock": {"type": "sqlite"}, "x": 1}
    )

    said = loading(path)

    assert said == (
        f"connections.json: orders.port: must be {PORT}",
        "connections.json: 'bad name': a connection's name may hold only letters, digits, '_', '.' and '-'",
        "connections.json: '': a connection's name must not be empty",
        "connections.json: stock.database: is missing; must be a string",
        "connections.json: x: must be an object",
    )


def test_values_from_the_environment_are_used_and_remembered(write: Write) -> None:
    """Text becomes a number where a number is wanted; every value knows where it came from."""
    path = write({
        "orders": postgres(
            port="${PORT}", host="${HOST:-db}.local", pool_max_size="{$SIZE:4}", pool={"reset": "${R:-none}"}
        )
    })  # fmt: skip

    found = load_connections(path, environ={"PORT": "5433"}).configs["orders"]

    assert (found.options["port"], found.options["host"]) == (5433, "db.local")
    assert (found.settings.max_size, found.settings.reset) == (4, "none")
    assert found.sources == {
        "port": ("${PORT}",), "host": ("${HOST}",), "pool_max_size": ("${SIZE}",), "pool.reset": ("${R}",),
    }  # fmt: skip


def test_a_bad_value_from_elsewhere_says_from_where(write: Write) -> None:
    """The file is right; the environment has to be mended."""
    path = write({"orders": postgres(port="${PORT}", ssl="${env:SSL}")})

    said = loading(path, {"PORT": "hunter2", "SSL": "hunter2"})

    assert said == (
        f"connections.json: orders.port: must be {PORT} (from ${{PORT}})",
        "connections.json: orders.ssl: must be one of 'disable', 'prefer', 'require', 'verify-ca', "
        "'verify-full' (from ${SSL})",
    )


def test_a_variable_that_is_missing_is_told_once(write: Write) -> None:
    """What depends on it is not called wrong; what does not is still checked."""
    path = write({
        "orders": postgres(port="${PORT}", pool_max_size=0),
        "stock": {"url": "${URL}"},
        "mill": {"type": "${TYPE}", "database": "x"},
        "farm": {"type": "sqlite", "database": "${DB}"},
    })  # fmt: skip

    assert loading(path) == (
        "connections.json: orders.port: the variable PORT is not set and has no default",
        "connections.json: stock.url: the variable URL is not set and has no default",
        "connections.json: mill.type: the variable TYPE is not set and has no default",
        "connections.json: farm.database: the variable DB is not set and has no default",
        "connections.json: orders.pool_max_size: must be a whole number >= 1",
    )


def test_a_kind_of_another_package_is_configured_like_any_other(install: Install) -> None:
    """Its constructor is its configuration; its own checks are heard."""
    install(
        "granary_pool",
        "granary",
        bare_driver(
            "granary",
            "self, *, silo: int, token: str | None = None",
            'self.silo = silo\n        if silo > 9: raise ValueError("silo: there are nine silos")',
            'return {"silo": int(url[-1]), "token": "t"}',
        ),
    )

    found = config({"type": "granary", "silo": 3, "token": "hunter2", "pool_max_size": 2})

    assert found.make_driver().silo == 3  # type: ignore[attr-defined]
    assert (found.settings.min_size, found.settings.max_size) == (1, 2)
    assert "hunter2" not in repr(found) + repr(dict(found.options))
    assert config({"url": "granary://4"}).options["silo"] == 4
    assert problems({"type": "granary"}) == ("orders.silo: is missing; must be a whole number",)
    assert problems({"type": "granary", "silo": 10}) == ("orders.silo: there are nine silos",)


def test_a_kind_whose_options_collide_with_every_connections_keys_is_refused(install: Install) -> None:
    """A driver cannot take `pool` away."""
    install("granary_pool", "granary", bare_driver("granary", "self, *, pool: int = 1"))

    said = problems({"type": "granary"})

    assert said == ("orders.type: kind 'granary' has the option 'pool', which every connection has",)


def test_names_that_pydantic_uses_itself_are_options_like_any_other(install: Install) -> None:
    """Whoever writes a driver need not know how it is validated."""
    install(
        "granary_pool",
        "granary",
        bare_driver("granary", "self, *, schema: str, copy: int = 1, model_config: str = '', _no: int = 0"),
    )

    found = config({"type": "granary", "schema": "s", "copy": 2, "model_config": "m", "_no": 3})

    assert dict(found.options) == {"schema": "s", "copy": 2, "model_config": "m", "_no": 3}


@pytest.mark.parametrize("number", [10**12, 10**400])
@pytest.mark.parametrize(
    ("key", "words"),
    [
        ("pool_max_size", "a whole number >= 1; no number may reach 1e+12"),
        ("acquisition_timeout", "a number >= 0 or null; no number may reach 1e+12"),
        ("port", "a whole number >= 1 and <= 65535"),
    ],
)
def test_a_number_with_too_many_digits_is_one_line(key: str, words: str, number: int) -> None:
    """It names the key and the limit, and does not list the digits."""
    assert problems(postgres(**{key: number})) == (f"orders.{key}: must be {words}",)
    if key == "pool_max_size":
        nested = problems(postgres(pool={"max_size": number, "min_size": number}))
        assert nested == (
            "orders.pool.min_size: must be a whole number >= 0; no number may reach 1e+12",
            f"orders.pool.max_size: must be {words}",
        )


@pytest.mark.parametrize("key", ["statement_cache_size", "command_timeout", "tcp_keepalive"])
def test_an_option_with_too_many_digits_is_one_line(key: str) -> None:
    """Also where only the driver knows the range."""
    (problem,) = problems(postgres(**{key: 10**400}))

    assert problem.startswith(f"orders.{key}: must be a ")
    assert len(problem) < 150
