"""Tests of how we measure."""
