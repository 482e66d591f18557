"""A pool from a URL and keyword arguments: what goes to the driver, what to the pool, and what to neither."""

from pathlib import Path
from typing import Any

import pytest

from millpond._create import create_pool
from millpond.drivers.sqlite import SQLiteDriver
from millpond.errors import ConfigError, InvalidSettings
from millpond.settings import PoolSettings
from millpond.status import PoolState
from tests.registry.known import KNOWN_SCHEMES

URL = "postgresql://miller:grain@db/mill"


async def test_a_url_is_all_that_it_takes(tmp_path: Path) -> None:
    """The driver is told by the scheme."""
    async with create_pool(f"sqlite:///{tmp_path}/mill.db") as pool:
        async with pool.acquire() as conn, conn.execute("SELECT 1") as cursor:
            assert await cursor.fetchone() == (1,)

        assert isinstance(pool.driver, SQLiteDriver)
        assert (pool.name, pool.settings.max_size) == ("sqlite", SQLiteDriver.default_sizes[1])


def test_nothing_is_opened_and_no_loop_is_needed() -> None:
    """The first acquire opens it."""
    assert create_pool(URL).status().state is PoolState.NEW


def test_keywords_are_settings_or_options() -> None:
    """Each goes where it belongs; options go before what the URL says."""
    pool = create_pool(URL, name="orders", max_size=1, acquire_timeout=None, database="other", user="baker")

    assert pool.name == "orders"
    assert pool.settings == PoolSettings(min_size=1, max_size=1, acquire_timeout=None)
    assert repr(pool.driver) == "<PostgreSQLDriver baker@db:5432/other>"


def test_settings_may_come_as_a_record() -> None:
    """It is taken as it is, keywords go before it."""
    pool = create_pool(URL, settings=PoolSettings.balanced(), max_size=30)

    assert pool.settings == PoolSettings.balanced(max_size=30)


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        (
            {"pasword": "hunter2"},
            "create_pool() has no argument 'pasword': neither a setting of the pool nor an option of kind "
            "'postgresql'; did you mean 'password'?",
        ),
        (
            {"mx_size": 5},
            "create_pool() has no argument 'mx_size': neither a setting of the pool nor an option of kind "
            "'postgresql'; did you mean 'max_size'?",
        ),
        (
            {"xyz": 5},
            "create_pool() has no argument 'xyz': neither a setting of the pool nor an option of kind "
            "'postgresql'",
        ),
    ],
)
def test_an_unknown_keyword_is_answered_with_the_near_one(keywords: dict[str, Any], message: str) -> None:
    """Its value is not repeated."""
    with pytest.raises(TypeError) as caught:
        create_pool(URL, **keywords)

    assert str(caught.value) == message


@pytest.mark.parametrize(
    ("url", "problem"),
    [
        ("hunter2", f"the URL has no known URL scheme; {KNOWN_SCHEMES}"),
        ("hunter2://db", f"the URL has no known URL scheme; {KNOWN_SCHEMES}"),
        ("postgresql://a:hunter2@db/?x=hunter2", "the URL's key 'x' is not an option"),
    ],
)
def test_a_bad_url_is_refused_without_repeating_it(url: str, problem: str) -> None:
    """Neither in the error nor in what hangs on it."""
    with pytest.raises(ConfigError) as caught:
        create_pool(url)

    assert caught.value.problems == (problem,)
    assert caught.value.__cause__ is None
    assert caught.value.__context__ is None


def test_settings_that_are_no_record_are_a_type_error() -> None:
    """What would be right is named."""
    with pytest.raises(
        TypeError, match="settings must be PoolSettings, got dict; single ones go as keywords"
    ):
        create_pool(URL, settings={"max_size": 3})  # type: ignore[arg-type]


def test_values_out_of_range_are_refused() -> None:
    """By the settings, or by the driver."""
    with pytest.raises(InvalidSettings, match="max_size: must be a whole number >= 1"):
        create_pool(URL, max_size=0)
    with pytest.raises(ValueError, match="port: must be a whole number from 1 to 65535"):
        create_pool(URL, port=0)
