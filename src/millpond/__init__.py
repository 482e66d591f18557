"""Millpond: connection pooling for Python services."""
