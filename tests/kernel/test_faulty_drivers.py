"""Drivers that raise where they must not: the connection goes, the borrower is served."""

from typing import Any

import pytest

from millpond import ConnectionPool, PoolSettings
from millpond.testing import ScriptedBackend, ScriptedDriver, run


class Faulty(ScriptedDriver):
    """Raises from `is_closed` for the connections in `cursed`."""

    cursed: frozenset[Any] = frozenset()

    def is_closed(self, conn: Any) -> bool:
        """Local knowledge, with a bug."""
        if conn in self.cursed:
            raise RuntimeError("a bug in the driver")
        return super().is_closed(conn)


def test_a_connection_whose_state_cannot_be_told_is_replaced(caplog: pytest.LogCaptureFixture) -> None:
    """is_closed() that raises costs the connection, not the borrower."""
    backend = ScriptedBackend()

    async def main() -> bool:
        pool = ConnectionPool(Faulty(backend), settings=PoolSettings(min_size=0))
        async with pool.acquire() as first:
            pass
        pool.driver.cursed = frozenset({first})
        async with pool.acquire() as second:
            other = second is not first
        await pool.close()
        return other

    assert run(main, check_timers=True)
    assert "is_closed() raised" in caplog.text
