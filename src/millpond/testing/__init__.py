"""For tests of pools and of programs that use them: virtual time and a scripted backend.

Nothing in the package imports this; it imports the package's vocabulary only.
"""

from __future__ import annotations

from millpond.testing.loop import (
    Deadlock,
    Fifo,
    NotSimulated,
    PendingTask,
    Policy,
    Shuffled,
    SimulatedLoop,
    SimulationError,
    StepLimit,
    TasksLeft,
    TimeLimit,
    UnhandledErrors,
    current,
    run,
    settle,
)

__all__ = [
    "Deadlock",
    "Fifo",
    "NotSimulated",
    "PendingTask",
    "Policy",
    "Shuffled",
    "SimulatedLoop",
    "SimulationError",
    "StepLimit",
    "TasksLeft",
    "TimeLimit",
    "UnhandledErrors",
    "current",
    "run",
    "settle",
]
