"""What a pool takes beside time, measured so that it is the pool's."""

import pytest

from benchmarks.footprint import OURS, STANDARD, imports, waiter_bytes
from benchmarks.subjects import millpond_pool


async def test_a_waiter_is_compared_with_a_task_that_still_waits() -> None:
    """Its future, itself and its lease alone are 320 bytes: less says that the base held something else."""
    assert 320 < await waiter_bytes(300) < 1024


async def test_a_task_that_ended_before_it_was_counted_spoils_the_measurement(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A task that is done holds its error, not a waiter."""
    monkeypatch.setattr("benchmarks.footprint.millpond_pool", lambda _size: millpond_pool(2))

    with pytest.raises(RuntimeError, match="has ended"):
        await waiter_bytes(3)


@pytest.mark.parametrize("is_compiled", [True, False])
async def test_an_import_is_timed_beside_one_of_the_standard_library(is_compiled: bool) -> None:
    """In the same rounds, so that a machine that is slow to import anything shows."""
    found = await imports(1, is_compiled=is_compiled)

    assert found.failed == {}
    assert 0 < found.spread(OURS).median < 5
    assert found.ratio(OURS, STANDARD).median > 0
