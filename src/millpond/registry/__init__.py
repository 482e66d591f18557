"""Pools by name: one central place for every pool of a service, filled from a file or from code."""

from millpond.errors import MissingExtra

try:
    import pydantic  # noqa: F401 - the models need it; whoever lacks it should read why
except ModuleNotFoundError as missing:
    raise MissingExtra("config", needed_for="millpond.registry", module="pydantic") from missing
