"""Drivers: one file a backend, imported only when used.

Each says at its head what its reset levels cover, and what it takes for broken. For drivers in other
packages there are `cut`, `outlive_fork`, `tune_socket` and `Unfit`; docs/writing-a-driver.md uses them.
"""

from millpond.drivers._shared import Unfit, cut, outlive_fork, tune_socket

__all__ = ["Unfit", "cut", "outlive_fork", "tune_socket"]
