"""The example in the package's own words works."""

import doctest

import millpond.testing


def test_the_example_of_the_package_runs() -> None:
    """What `help(millpond.testing)` shows is what happens."""
    result = doctest.testmod(millpond.testing)

    assert result.attempted > 0
    assert result.failed == 0
