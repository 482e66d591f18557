"""What was tried for each target, and what the limit is; said where one is not met.

The numbers are of a machine like that of the report, measured when each thing was tried, some beside other
work on it; they do not change with the run that they stand under. Where a command shows them again, the text
names it. For a target that is met with room to spare, a miss says first that the machine was busy or that
something has become slower.
"""

from __future__ import annotations

from typing import Final

from benchmarks.results import Target


def _line(text: str) -> str:
    return " ".join(text.split())


LEASE: Final = "lease"
EXPLICIT: Final = "explicit"
FASTEST: Final = "lease ÷ the fastest"
PSYCOPG_ALONE: Final = "lease ÷ psycopg_pool"
ASYNCPG_ALONE: Final = "lease ÷ asyncpg.Pool"
HAND_OVER: Final = "hand-over"
HAND_OVER_PEER: Final = "hand-over ÷ the fastest"
MORE_WAITERS: Final = "growth with waiters"
MORE_EXPIRED: Final = "growth of time-outs"
MORE_CANCELLED: Final = "growth of cancels"
MORE_CONNECTIONS: Final = "growth with connections"
LOOPERS: Final = "loopers"
WAITER_BYTES: Final = "bytes of a waiter"
IDLE_BYTES: Final = "bytes of an idle connection"
LISTENER: Final = "listener"
IMPORT: Final = "import"
SAME_RESET: Final = "rate, the same reset"
SAME_RESET_P99: Final = "p99, the same reset"
OWN_RESET: Final = "rate, each its own reset"
OWN_RESET_P99: Final = "p99, each its own reset"
NO_RESET: Final = "rate, no reset"
PSYCOPG: Final = "rate, psycopg"
ALCHEMY: Final = "rate, SQLAlchemy"

_BUSY: Final = """
    It is met with room to spare on a quiet machine: a miss is one that was busy, which the load in the head
    says, or a regression: docs/benchmarks.md has the numbers of before.
"""

TEXTS: Final[dict[str, str]] = {
    LEASE: _line("""
        It was 5.2. Hold times are noted and counted 255 at once, leases are neither counted nor numbered, a
        return looks at one instant instead of three conditions, leaves one instead of three and needs no
        coroutine, what is called is looked up first. What one thing more would take off is measured by
        leaving it out of the source (`python -m benchmarks.ablations lease`). On CPython 3.11, of an `async
        with` over nothing: the hold time 0.3 to 0.4, the thread on the way in 0.15 to 0.25, the task on the
        way out 0.05 to 0.2, the question whether the connection is closed 0.15 to 0.2, the driver's verdict
        0.1 to 0.25 (a copy that lacks nothing, which tells how far to believe this: up to 0.1); each belongs
        to what is promised. Without gain: everything in closures of a class for each pool, slots for the
        pool, a thread-local mark instead of the thread's number. A finished future for each connection
        instead of a coroutine takes off 0.35 on 3.11 and adds 0.4 on 3.12 and 3.13. Compiled, the same short
        way is at 1.0 (3.11) and 1.6 (3.13): `make bench-compiled`.
    """),
    EXPLICIT: _line("""
        Two calls that each have to be awaited stand where `async with` has its own instructions, and the
        release finds its lease by the connection, as the connection is bare. What was done: `release()` makes
        no coroutine, what it returns is one finished object for all; `await pool.acquire()` runs the same
        function without a second object around it; the table of connections is kept when one is opened, not
        at each lease. What is left is one look-up, the check of thread or loop, one look for an exception
        that is being handled (the default of `error`), and the calls.
    """),
    FASTEST: _line("""
        asyncmy's pool is compiled, has no time-out, no histogram, no holders, no check of loop or thread, and
        starves whoever waits; its uncontended lease makes no coroutine and takes about 2.1 of an empty `async
        with` on 3.11 and 4.7 on 3.13. In pure Python the `async with`, a list and two clock reads alone are
        1.55. The compiled prototype of our short way takes 0.47 (3.11) and 0.35 (3.13) of it: `make
        bench-compiled`. Over real connections, where our driver looks at each lease whether the connection is
        sound, ours is four times asyncmy's: the table of MariaDB in `make bench-all`.
    """),
    PSYCOPG_ALONE: _line(f"""
        The numerator is the first line's lease, and what was tried for it is said there; the denominator is
        psycopg_pool over a stand-in, without a statement. {_BUSY}
    """),
    ASYNCPG_ALONE: _line(f"""
        The numerator is the first line's lease, and what was tried for it is said there. The denominator is
        asyncpg.Pool over a stand-in: its proxy, its task for the release, and no reset. {_BUSY}
    """),
    HAND_OVER: _line("""
        It was 1.8. A waiter is made once, has its deadline in a line instead of a timer of its own, and is
        served by the one who gives back, without a task or a step of the loop in between. What is left above
        a semaphore is no one thing. In semaphores, on 3.11 and 3.13, leaving it out takes off: the questions
        whether there is nothing but the queue 0.07 to 0.1, the deadline 0.05 to 0.08, the time of waiting up
        to 0.06, the time of holding, the driver's verdict, the look whether the connection still lives when
        its borrower runs and the lease's number up to 0.05 each, thread and task up to 0.03; a copy that
        lacks nothing differs by up to 0.04, so that most of these cannot be told from nothing. All of them
        together take off 0.25 to 0.34 and leave 1.25, which is the object that `acquire()` returns, the
        waiter, and the calls between them (`python -m benchmarks.ablations handover`). Compiled, the short
        way takes 4 % off: the rest is the event loop's and the tasks'.
    """),
    HAND_OVER_PEER: _line("""
        aio_pika.pool takes 1.2 to 1.3 semaphores for a turn, has no time-out, and lets whoever gives back
        take again at once. 0.8 of it would be one semaphore, whose hand-over is little but what the event
        loop does for a future and a task. Ours was 1.8 semaphores, and is 1.25 when deadline, times, numbers,
        checks and both of the driver's answers are all left out of a copy (`python -m benchmarks.ablations
        handover`): the target cannot be met by leaving out what is promised. Compiled, the short way takes
        4 % off a hand-over.
    """),
    MORE_WAITERS: _line("""
        A turn does O(1) work whoever waits: who joins, is served or leaves is not looked for, and those who
        wait equally long stand in a line, not in a heap. Of tasks that stay, a turn among 10,000 waiters
        costs 1.2 to 1.7 µs more than the 10 to 13 among 20, with the garbage collector as without; a
        semaphore's 0.5 to 0.8 more, that of a bare line of futures 0.2 to 0.4, and that of such a line with
        two objects and three numbers beside each future, about what we keep, 0.7 (3.11) to 1.3 (3.13). So it
        is more objects that make most of it, not work on them; that they no longer fit the processor's caches
        is likely, and not measured. Of tasks that come, have one turn and end it is 4 more after 12, and 0.8
        without the garbage collector, whose passes over the new waiters are most of that growth (`python -m
        benchmarks.ablations crowd`). A service with so many tasks may raise the collector's threshold; a
        library may not.
    """),
    MORE_EXPIRED: _line(f"""
        One timer for a pool, deadlines in a line: who runs out of time is at its head, and is only marked in
        the queue. A semaphore under `asyncio.timeout` has a timer for each waiter, in the loop's heap of
        timers. {_BUSY}
    """),
    MORE_CANCELLED: _line(f"""
        Who leaves is only marked, and swept out when it comes to the front or the dead outnumber the living.
        What grows is the garbage collector's, which looks at tasks and waiters in passing: without it a
        cancel among 10,000 costs 0.9 of one among 20, with it 1.1 to 1.3; a semaphore's 0.8 to 0.9 and 1.4
        (`python -m benchmarks.ablations crowd`). {_BUSY}
    """),
    MORE_CONNECTIONS: _line(f"""
        Nothing on the way looks at the number of connections: idle ones are a stack, and who gives back has
        its place in the lease. {_BUSY}
    """),
    LOOPERS: _line("""
        First come, first served, by direct hand-over, whoever asks: more than one turn of difference is no
        matter of speed. This must not be missed on any machine; it is a regression.
    """),
    WAITER_BYTES: _line("""
        On CPython 3.11: the coroutine that waits 312 bytes beyond what a task needs to wait for a future, its
        own future 144, the lease 96, the waiter itself 80, its place and two instants 76, what stands between
        the coroutine and the future 40, and its places in two queues 12. All that is ours has slots. This
        does not depend on the machine's load: a miss is a regression, or an interpreter whose objects are
        larger.
    """),
    IDLE_BYTES: _line("""
        On CPython 3.11: its place 176 bytes, which has slots, a list for those who share it 56, the instants
        in it, and its entries in the tables of the pool. This does not depend on the machine's load: a miss
        is a regression, or an interpreter whose objects are larger.
    """),
    LISTENER: _line("""
        Two events a lease, each with its number, pool, generation, connection and lease, and two calls of the
        listener. Those of a lease in passing are made by the tuple's own constructor, without a keyword, and
        are delivered without the outbox; where nobody listens another class of leases makes none. It was 3.8:
        that a lease had no number yet was told by an exception. Of 2.8 µs, on 3.11 and 3.13, the two events
        take 0.9, of which 0.2 are the number, the listener's two calls (it does nothing) 0.1, a class of
        leases that could tell 0.3 to 0.45, and the rest is what finds out, twice, whom to tell (`python -m
        benchmarks.ablations listener`). A limit in microseconds is one of the processor, too: beside other
        work this same machine takes 3.5 for it.
    """),
    IMPORT: _line("""
        Thirty modules and eight dataclasses, counted by `tests/test_import_cost.py`; nothing but the standard
        library, no pattern compiled, drivers and the rest imported when they are used. A miss on a machine
        with a slow disk or without bytecode is what the note says; otherwise the machine was busy, or
        something has become slower.
    """),
    SAME_RESET: _line("""
        A reset runs in a task of the pool's own, under a time-out of its own, and its connection is in the
        books as being tended: a turn takes 19 µs with a reset that costs nothing and 9 without one
        (`python -m benchmarks.ablations reset`); it was 42 and 11. A reset begins and ends in passing, and
        one timer looks at all calls of a driver: a task with a timer of its own is 9 already. asyncpg.Pool
        makes a task too (its shield), without a time-out or books. A miss says that the two are about equal
        here, or that the rounds were disturbed.
    """),
    SAME_RESET_P99: _line("""
        Waiting is by order of arrival, so that the longest wait is hardly longer than the median one: what is
        left is the queue, 90 tasks before each, and the pauses of client and server. A miss says that the
        rounds were disturbed (one pause holds up all hundred tasks, which is five of a hundred answers), or
        that a connection was lost to the pool for a while: a regression.
    """),
    OWN_RESET: _line("""
        Our reset takes the server 61 µs of processor (150 if it always undid what PREPARE may have left),
        asyncpg's 29, a statement that does nothing 19: `python -m benchmarks.ablations postgresql`. The
        difference is what it undoes besides: roles, temporary tables, statements of SQL's PREPARE, and how
        statements were understood. DISCARD PLANS has the next statement planned anew (11 µs for SELECT 1);
        without it a kept statement reads dates in the last borrower's time zone. The rows with the same
        statements compare the pools.
    """),
    OWN_RESET_P99: _line("""
        As with the same reset: order of arrival makes the longest wait a little more than the median one; our
        reset, which undoes more, makes both longer by what the server needs for it. A miss says that the
        rounds were disturbed, or that a connection was lost to the pool for a while: a regression.
    """),
    NO_RESET: _line("""
        asyncpg's own statement is the same on both sides, 53 µs of the client's processor beside the
        server's, and sets the limit: with nothing at all left of our turn the ratio would be what
        asyncpg.Pool's turn is beside the statement. Our turn over stand-ins is the hand-over's line above,
        and what was tried for it is said there. When the server takes the second processor for itself, that
        is as much as a pool can bring.
    """),
    PSYCOPG: _line("""
        psycopg's own statement takes 137 µs of the client's processor, the server 23. A turn of psycopg_pool
        takes 91 over connections that cost nothing, one of ours 12.6, and 1.8 for what the driver says of
        psycopg's connections (`python -m benchmarks.ablations postgresql`): on a processor of its own the
        ratio would be (137 + 91) ÷ (137 + 12.6 + 1.8) = 1.5, and 1.7 with nothing left of ours. The server
        takes its share of the same two processors.
    """),
    ALCHEMY: _line(f"""
        Nothing was done here that was not done for the lines above: each side rolls back what is open, and
        SQLAlchemy's begins and ends in a greenlet. {_BUSY}
    """),
}
"""By the key of a target."""


def why(target: Target) -> str:
    """What is to be said of a target when it is not met; of one that a kept run of earlier has, so much."""
    return TEXTS.get(target.key, "nothing is written down of it.")
