"""For tests of pools and of programs that use them: virtual time, a scripted backend, an auditor.

Nothing in the package imports this.

    >>> import asyncio
    >>> backend = ScriptedBackend(latency=0.01)
    >>> backend.connect_script.extend([Fail(TooManyClients("full")), Dawdle(2.0)])
    >>> driver = ScriptedDriver(backend)
    >>> async def main():
    ...     try:
    ...         await driver.connect()
    ...     except TooManyClients:
    ...         await asyncio.sleep(3600)
    ...     conn = await driver.connect()
    ...     with backend.using(conn, "alice"):
    ...         answer = await conn.request("how are you")
    ...     await driver.close(conn)
    ...     return answer.to
    >>> run(main, seed=7)
    'how are you'
    >>> backend.check(all_closed=True)
    >>> print(backend.story())
    0.010000 attempt 1 ended: TooManyClients: full
    3602.010000 connection 1 opened by attempt 2
    3602.010000 connection 1 borrowed by alice
    3602.020000 connection 1 returned by alice
    3602.030000 connection 1 closed
"""

from __future__ import annotations

from millpond.testing.audit import AuditFailure, Auditor
from millpond.testing.driver import (
    HANG_FOR_EVER,
    AccessDenied,
    Answer,
    Attempt,
    BackendDown,
    BackendError,
    Behaviour,
    Call,
    ConnectionLost,
    Dawdle,
    Decision,
    Ending,
    Fail,
    Fault,
    FaultKind,
    FaultsFound,
    Hang,
    Lose,
    Mixture,
    ReadOnly,
    ScriptedBackend,
    ScriptedConnection,
    ScriptedDriver,
    Succeed,
    TooManyClients,
    Verb,
    WrongAnswer,
)
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
    "HANG_FOR_EVER",
    "AccessDenied",
    "Answer",
    "Attempt",
    "AuditFailure",
    "Auditor",
    "BackendDown",
    "BackendError",
    "Behaviour",
    "Call",
    "ConnectionLost",
    "Dawdle",
    "Deadlock",
    "Decision",
    "Ending",
    "Fail",
    "Fault",
    "FaultKind",
    "FaultsFound",
    "Fifo",
    "Hang",
    "Lose",
    "Mixture",
    "NotSimulated",
    "PendingTask",
    "Policy",
    "ReadOnly",
    "ScriptedBackend",
    "ScriptedConnection",
    "ScriptedDriver",
    "Shuffled",
    "SimulatedLoop",
    "SimulationError",
    "StepLimit",
    "Succeed",
    "TasksLeft",
    "TimeLimit",
    "TooManyClients",
    "UnhandledErrors",
    "Verb",
    "WrongAnswer",
    "current",
    "run",
    "settle",
]
