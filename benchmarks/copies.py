"""A pool on copies of the kernel's sources in which something is left out: what each thing costs.

Every pool made here has modules of its own. Byte code learns which classes it meets: shared between pools
that differ, it would have to learn each of them anew in every round.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from types import FunctionType, MethodType, ModuleType
from typing import Any, Final

from benchmarks.subjects import millpond_pool
from millpond import ConnectionPool

Change = tuple[str, str, str]
"""The module of `millpond._core`, the lines of it that go, and what comes instead."""

AS_IT_IS: Final = "as it is"
ALIKE: Final = "nothing, once more"

# What a pool or its other parts compare with their own stays the package's.
_SHARED: Final[dict[str, tuple[str, ...]]] = {
    "lease": ("UNASKED", "ASKING", "_SPENT", "_STAND_INS", "DONE", "TOLD", "RELEASED"),
    "lending": (),
    "waiting": (),
    "waiters": ("Waiter", "WaiterState", "_WAITING", "_SERVED"),
    "announcing": (),
}

HOLD_TIME: Final[tuple[Change, ...]] = (
    ("lease", "                held = pool._held\n", ""),
    ("lease", "                held.append(now - self.since)\n", ""),
    ("lease", "                if len(held) > NOTED:\n                    pool._hold_times.fold()\n", ""),
)
OWN_TASK: Final[tuple[Change, ...]] = (("lease", " and task_of(pool._home) is self.task", ""),)
VERDICT: Final[tuple[Change, ...]] = (
    (
        "lease",
        "                    verdict = after_lease(slot.conn, None)\n",
        "                    verdict = _KEEP\n",
    ),
)

_WAIT_TIME: Final[tuple[Change, ...]] = (
    (
        "lending",
        "        waits = pool._wait_times\n"
        "        waits.fresh.append(now - waiter.queued_at)\n"
        "        if len(waits.fresh) > NOTED:\n"
        "            waits.fold()\n",
        "",
    ),
)
_LOOK: Final[tuple[Change, ...]] = (("lease", " and not self.pool._keeper.gone(slot.conn)", ""),)
_DEADLINE: Final[tuple[Change, ...]] = (
    ("lending", "        timeout = hold.timeout\n", ""),
    (
        "lending",
        "        timeout = pool.settings.acquire_timeout if timeout is UNSET else seconds(timeout)\n",
        "",
    ),
    (
        "lending",
        "join_plainly(hold, now, None if timeout is None else now + timeout)",
        "join_plainly(hold, now, None)",
    ),
    ("lending", "join(hold, now, None if timeout is None else now + timeout)", "join(hold, now, None)"),
    (
        "waiting",
        "        pool._queue.join(waiter)\n"
        "        if deadline is not None:\n"
        "            if now >= deadline:\n"
        "                self.time_out(waiter, now)\n"
        "            elif pool._deadlines is not None and deadline < pool._deadlines.due:\n"
        "                pool._deadlines.set(deadline)\n",
        "        pool._queue.join(waiter)\n",
    ),
    (
        "waiters",
        "        deadline = waiter.deadline\n"
        "        if deadline is not None:\n"
        "            if deadline >= self._last_due:\n"
        "                self._last_due = deadline\n"
        "                self._line.append(waiter)\n"
        "            else:\n"
        "                heapq.heappush(self._heap, waiter)\n",
        "",
    ),
    (
        "waiters",
        "            elif (line := self._line) and line[0] is waiter:\n"
        "                line.popleft()\n"
        "            elif self.deadlines_kept > _COMPACT_ABOVE + 2 * self.live:\n"
        "                self._forget_deadlines()\n",
        "",
    ),
)
_THREAD: Final[tuple[Change, ...]] = (("lending", " and here() == pool._here", ""),)
_NUMBER: Final[tuple[Change, ...]] = (
    (
        "lending",
        "        hold.number_now()\n"
        "        if hold.task is None:\n"
        "            slot.close_short_way()\n"
        "        slot.hold",
        "        if hold.task is None:\n            slot.close_short_way()\n        slot.hold",
    ),
)
_PLAIN: Final[tuple[Change, ...]] = (
    (
        "lending",
        "            is_plain\n"
        "            and not pool._idle\n"
        "            and pool._ledger.is_used_up\n"
        "            and pool.settings.max_waiting is None\n"
        "            and not pool._announcer.is_heard\n",
        "            is_plain and not pool._idle\n",
    ),
)
_ALL: Final = (*HOLD_TIME, *OWN_TASK, *VERDICT, *_WAIT_TIME, *_LOOK, *_DEADLINE, *_THREAD, *_NUMBER, *_PLAIN)

HAND_OVER: Final[dict[str, tuple[Change, ...]]] = {
    AS_IT_IS: (),
    ALIKE: (),
    "the deadline": _DEADLINE,
    "the time of waiting": _WAIT_TIME,
    "the time of holding": HOLD_TIME,
    "the driver's verdict": VERDICT,
    "the look whether it lives, when its borrower runs": _LOOK,
    "the thread, on the way in": _THREAD,
    "the task, on the way out": OWN_TASK,
    "the lease's number": _NUMBER,
    "the questions that the queue is not plain without": _PLAIN,
    "all of these": _ALL,
}
"""What is left out of a hand-over."""

_TUPLES: Final = (
    (
        "announcing",
        "        facts = (\n"
        "            kind, self._sequence, pool.name, pool._ledger.generation, slot.number, hold.number,"
        " None,\n"
        '            seconds, "",\n'
        "        )  # fmt: skip\n",
        "        facts = _NOTHING\n",
    ),
    ("announcing", "_new_event(Event, facts)", "facts"),
    (
        "announcing",
        "\n\nclass Announcer:",
        '\n_NOTHING: Any = Event(EventKind.LENT, 0, "", 0, 0, 0, None, 0.0, "")\n\n\nclass Announcer:',
    ),
)
LISTENER: Final[dict[str, tuple[Change, ...]]] = {
    AS_IT_IS: (),
    ALIKE: (),
    "the two calls of the listener": (
        ("announcing", "                listener(event)\n", "                pass\n"),
    ),
    "the two events": _TUPLES,
    "the lease's number": (("announcing", "slot.number, hold.number, None", "slot.number, 0, None"),),
    "all telling: what is left is a class of leases that could tell": (
        (
            "lease",
            "            if not self.is_told:\n                self.pool._lender.note_begin(self)\n",
            "",
        ),
        (
            "lease",
            "pool._announcer.tell_at_once(EventKind.RETURNED, slot, self, slot.returned_at - self.since)",
            "pass",
        ),
    ),
}
"""What is left out of a lease that somebody hears of."""


def copies(changes: tuple[Change, ...]) -> dict[str, ModuleType]:
    """The package's modules of a lease, with these changes of their sources.

    Raises:
        ValueError: what is to be changed is not there, or not once: the source has changed since.
    """
    made: dict[str, ModuleType] = {}
    for name, shared in _SHARED.items():
        real = import_module(f"millpond._core.{name}")
        assert real.__file__ is not None
        source = Path(real.__file__).read_text(encoding="utf-8")
        for _, before, after in (change for change in changes if change[0] == name):
            if source.count(before) != 1:
                raise ValueError(f"{real.__name__} has {source.count(before)} times: {before.strip()!r}")
            source = source.replace(before, after)
        made[name] = module = ModuleType(real.__name__)
        exec(compile(source, real.__file__, "exec"), vars(module))  # noqa: S102 - our own file
        for each in shared:
            setattr(module, each, getattr(real, each))
    vars(made["lending"])["Attended"] = made["lease"].Attended
    return made


async def pool_with(changes: tuple[Change, ...], *, listens: bool = False) -> ConnectionPool[Any]:
    """A pool over connections that cost nothing, open, on such copies.

    Args:
        changes: what its sources lack.
        listens: whether somebody hears of its leases, who does nothing.
    """
    pool = millpond_pool()
    made = copies(changes)
    for part, kind in (
        (pool._lender, made["lending"].Lender),
        (pool._waiting, made["waiting"].Waiting),
        (pool._queue, made["waiters"].WaitQueue),
        (pool._announcer, made["announcing"].Announcer),
    ):
        part.__class__ = kind
    acquire = ConnectionPool.acquire
    own = FunctionType(
        acquire.__code__.replace(), acquire.__globals__, acquire.__name__, acquire.__defaults__
    )
    vars(pool)["acquire"] = MethodType(own, pool)
    await pool.initialize()
    if listens:
        pool.add_listener(lambda _event: None)
    pool._acquire_class = made["lease"].AttendedAcquire if listens else made["lease"].Acquire
    return pool
