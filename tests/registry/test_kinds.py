"""Finding drivers: Millpond's own, and those that other packages register."""

import subprocess
import sys
from collections.abc import Callable
from importlib.metadata import entry_points

import pytest

from millpond.drivers.kinds import GROUP, Kinds, scheme_of, settings_for
from millpond.drivers.mysql import MySQLDriver
from millpond.drivers.postgresql import PostgreSQLDriver
from millpond.drivers.sqlite import SQLiteDriver
from millpond.errors import ConfigError, InvalidSettings
from millpond.settings import PoolSettings
from tests.registry.conftest import bare_driver
from tests.registry.known import KINDS, KNOWN_KINDS, KNOWN_SCHEMES

Install = Callable[..., None]


def refusal(get: Callable[[str], object], what: str) -> str:
    with pytest.raises(ConfigError) as caught:
        get(what)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None
    (problem,) = caught.value.problems
    return problem


@pytest.mark.parametrize(
    ("kind", "driver"),
    [
        ("mysql", MySQLDriver),
        ("postgresql", PostgreSQLDriver),
        ("sqlite", SQLiteDriver),
    ],
)
def test_own_kinds_are_found_by_name_and_by_every_scheme(kind: str, driver: type) -> None:
    """The table here says what the driver itself says."""
    kinds = Kinds()

    assert kinds.get(kind) is driver
    assert driver.kind == kind
    assert [kinds.of_scheme(scheme) for scheme in driver.schemes] == [driver] * len(driver.schemes)


def test_the_metadata_and_the_table_say_the_same() -> None:
    """What pyproject.toml registers is what is found without reading it."""
    registered = {
        entry.name: entry.load()
        for entry in entry_points(group=GROUP)
        if entry.module.startswith("millpond.")
    }

    assert registered
    assert {name: Kinds().get(name) for name in registered} == registered


def test_an_unknown_kind_names_the_near_one_and_all() -> None:
    """A typing mistake is answered with the word that was meant."""
    said = refusal(Kinds().get, "postgres")

    assert said == f"is not a known kind; did you mean 'postgresql'?; {KNOWN_KINDS}"


def test_an_unknown_scheme_is_not_repeated() -> None:
    """What stands before :// may be the first part of a password."""
    said = refusal(Kinds().of_scheme, "hunter2")

    assert said == f"has no known URL scheme; {KNOWN_SCHEMES}"


@pytest.mark.parametrize(
    ("url", "scheme"),
    [("postgresql://h", "postgresql"), ("SQLite:///x", "sqlite"), ("h:5432", ""), ("", ""), ("://h", "")],
)
def test_a_scheme_is_what_stands_before_the_slashes(url: str, scheme: str) -> None:
    """In lower case; a text without one is not a URL."""
    assert scheme_of(url) == scheme


def test_another_package_can_bring_a_kind(install: Install) -> None:
    """An entry point is all that it takes."""
    install("granary_pool", "granary", bare_driver("granary"))
    kinds = Kinds()

    assert kinds.names == tuple(sorted(("granary", *KINDS)))
    assert kinds.get("granary").kind == "granary"
    assert kinds.of_scheme("granary") is kinds.get("granary")


def test_another_package_cannot_replace_an_own_kind(install: Install) -> None:
    """`postgresql` means Millpond's driver on every machine."""
    install("granary_pool", "postgresql", bare_driver("postgresql"))

    assert Kinds().get("postgresql") is PostgreSQLDriver
    assert Kinds().names == KINDS


def test_one_kind_from_two_packages_is_refused(install: Install) -> None:
    """Which one would win must not depend on the order of installation."""
    install("granary_pool", "granary", bare_driver("granary"))
    install("other_pool", "granary", bare_driver("granary"))

    said = refusal(Kinds().get, "granary")

    assert said == "kind 'granary' is registered by several packages: granary_pool, other_pool"


@pytest.mark.parametrize(
    ("source", "fault"),
    [
        (
            "import there_is_no_such_client",
            "kind 'granary' (granary_pool:Driver) cannot be loaded: "
            "ModuleNotFoundError: No module named 'there_is_no_such_client'",
        ),
        (
            "raise RuntimeError('token=hunter2 is wrong')",
            "kind 'granary' (granary_pool:Driver) cannot be loaded: RuntimeError: token=*** is wrong",
        ),
        (
            "class Driver:\n    kind = 'granary'\n    schemes = ()\n    extra = ''\n"
            "    default_sizes = (1, 2)\n"
            "    def options_from_url(url): ...",
            "kind 'granary' (granary_pool:Driver) is not a driver class with secret_options",
        ),
        (
            "def Driver(): ...",
            "kind 'granary' (granary_pool:Driver) is not a driver class with "
            "kind, schemes, extra, default_sizes, secret_options, options_from_url",
        ),
    ],
)
def test_a_broken_package_is_named_with_what_is_wrong(install: Install, source: str, fault: str) -> None:
    """Its kind cannot be used; the others can."""
    install("granary_pool", "granary", source)
    kinds = Kinds()

    assert refusal(kinds.get, "granary") == fault
    assert kinds.of_scheme("sqlite") is SQLiteDriver
    assert refusal(kinds.of_scheme, "granary") == f"has no known URL scheme; {KNOWN_SCHEMES}"


@pytest.mark.parametrize(
    ("kind", "clients"),
    [("postgresql", ["asyncpg", "psycopg"]), ("sqlite", ["aiosqlite"]), ("mysql", ["asyncmy", "aiomysql"])],
)
def test_a_missing_client_library_names_the_extra(kind: str, clients: list[str]) -> None:
    """Asked in a process in which the client library cannot be imported."""
    program = f"""
import sys
sys.modules.update(dict.fromkeys({clients!r}))
from millpond.drivers.kinds import Kinds
from millpond.errors import MissingExtra
try:
    Kinds().get({kind!r})
except MissingExtra as error:
    print(error.extra, error)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

    assert run.stderr == ""
    assert run.stdout.startswith(f"{kind} ")
    assert f"needs the package '{clients[0]}': pip install 'millpond[{kind}]'" in run.stdout


def test_looking_for_a_kind_loads_no_other() -> None:
    """A service on SQLite needs no PostgreSQL client, and does not pay for importing it."""
    program = """
import sys
from millpond.drivers.kinds import Kinds
print(len(Kinds().names), "asyncpg" in sys.modules, "aiosqlite" in sys.modules)
Kinds().of_scheme("sqlite")
print("asyncpg" in sys.modules, "aiosqlite" in sys.modules)
"""
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=30)

    assert (run.stdout, run.stderr) == (f"{len(KINDS)} False False\nFalse True\n", "")


@pytest.mark.parametrize(
    ("given", "sizes"),
    [
        ({}, (2, 10)),
        ({"max_size": 5}, (2, 5)),
        ({"max_size": 1}, (1, 1)),
        ({"min_size": 5}, (5, 10)),
        ({"min_size": 20}, (20, 20)),
        ({"min_size": 0}, (0, 10)),
        ({"min_size": 0, "max_size": 1}, (0, 1)),
        ({"max_idle": 1}, (1, 10)),
        ({"max_idle": 0, "max_size": 3}, (0, 3)),
        ({"max_idle": None}, (2, 10)),
    ],
)
def test_default_sizes_bend_to_what_was_given(given: dict[str, int], sizes: tuple[int, int]) -> None:
    """A default never makes a right configuration wrong."""
    settings = settings_for(PostgreSQLDriver, given)

    assert (settings.min_size, settings.max_size) == sizes


def test_other_settings_keep_their_defaults() -> None:
    """Only sizes depend on the kind."""
    assert settings_for(PostgreSQLDriver, {"reset": "none"}) == PoolSettings(
        min_size=2, max_size=10, reset="none"
    )


@pytest.mark.parametrize("given", [{"min_size": 5, "max_size": 3}, {"max_size": 0}, {"mx_size": 3}])
def test_sizes_that_were_given_are_never_repaired(given: dict[str, int]) -> None:
    """Validation refuses."""
    with pytest.raises(InvalidSettings):
        settings_for(PostgreSQLDriver, given)
