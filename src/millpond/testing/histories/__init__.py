"""Random histories of pools: borrowers that misbehave, a backend that fails, operators who meddle.

    python -m millpond.testing.histories --seconds 600

plays one history after the other, each from a seed of its own, and audits
every guarantee after every step. The seed of a failure replays it exactly.
"""

from __future__ import annotations

from millpond.testing.histories.history import OPERATIONS, History, Report, play
from millpond.testing.histories.tally import HistoryFailure, Tally

__all__ = ["OPERATIONS", "History", "HistoryFailure", "Report", "Tally", "play"]
