"""Drivers: one file a backend, imported only when used.

Each says at its head what its reset levels cover, and what it takes for broken.
"""

from millpond.drivers._shared import Unfit

__all__ = ["Unfit"]
