"""Millpond measured against what a user would pick instead. Not shipped; `make bench` runs it."""
