"""How long to wait before the next connection attempt. No clock, no randomness of its own."""

from __future__ import annotations

from typing import Final

_DOUBLINGS: Final = 60  # 2.0**1024 overflows; by then every ceiling has long been reached


def backoff(failures: int, *, first_s: float, most_s: float, draw: float) -> float:
    """Seconds to pause after `failures` failed attempts in a row.

    Full jitter: uniform on [0, min(most_s, first_s * 2**(failures - 1))].
    Source: M. Brooker, "Exponential Backoff And Jitter", AWS Architecture Blog, 2015.

    Args:
        failures: failed attempts in a row, at least 1.
        first_s: ceiling of the first pause, seconds.
        most_s: ceiling of every pause, seconds.
        draw: a number from [0, 1); an argument, so that tests can choose it.

    Raises:
        ValueError: if `failures` < 1.
    """
    if failures < 1:
        raise ValueError(f"failures count from 1, got {failures}")
    if failures > _DOUBLINGS:
        return (most_s if first_s else 0.0) * draw
    return min(most_s, first_s * 2.0 ** (failures - 1)) * draw
