"""A kind of backend for Millpond in a package of its own: a server that answers lines with lines."""

from .client import Line, Refused
from .driver import LinesDriver

__all__ = ["Line", "LinesDriver", "Refused"]
