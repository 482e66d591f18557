"""Millpond's tests. Real servers for them live in `tests.servers`."""
