"""Settings: numbers that no field takes are refused in one clear line, however long they are."""

import math

import pytest

from millpond import ConnectionPoolRegistry, InvalidSettings, PoolSettings

DIGITS = (13, 401, 5001)  # the last is more than Python spells out


@pytest.mark.parametrize("digits", DIGITS)
@pytest.mark.parametrize("name", ["max_size", "max_uses", "acquire_timeout", "idle_timeout"])
def test_a_number_too_large_is_refused_in_few_words(name: str, digits: int) -> None:
    """The limit is named, the digits are counted and not listed."""
    with pytest.raises(InvalidSettings) as caught:
        PoolSettings(**{name: 10 ** (digits - 1)})

    assert caught.value.field == name
    text = str(caught.value)
    assert text.startswith(f"{name}: must be a ")
    assert "no number may reach 1e+12" in text
    assert f"got a number of {digits} digits" in text
    assert len(text) < 200


@pytest.mark.parametrize("value", [1e12, 1e300, -1e300])
def test_a_fraction_is_no_smaller_for_being_one(value: float) -> None:
    """The limit is the same for times that come as floats."""
    with pytest.raises(InvalidSettings, match=r"max_lifetime: .*no number may reach 1e\+12"):
        PoolSettings(max_lifetime=value)


@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan])
def test_what_is_no_number_of_seconds_is_refused_as_before(value: float) -> None:
    """No limit is spelled None."""
    with pytest.raises(InvalidSettings, match="acquire_timeout: must be a number >= 0, or None"):
        PoolSettings(acquire_timeout=value)


@pytest.mark.parametrize("digits", DIGITS)
def test_a_field_with_a_bound_of_its_own_names_that_one(digits: int) -> None:
    """One limit in a message is enough."""
    with pytest.raises(InvalidSettings, match="lifetime_jitter: must be a number >= 0 and < 1, got a number"):
        PoolSettings(lifetime_jitter=10 ** (digits - 1))


def test_the_largest_number_below_the_limit_is_taken() -> None:
    """Thirty thousand years."""
    settings = PoolSettings(max_size=10**12 - 1, acquire_timeout=10**12 - 1)

    assert settings.max_size == 999_999_999_999


def test_a_registry_refuses_them_too() -> None:
    """Its one setting is read like a pool's."""
    with pytest.raises(InvalidSettings, match="migration_timeout: must be a number > 0; no number may reach"):
        ConnectionPoolRegistry(migration_timeout=10**400)
