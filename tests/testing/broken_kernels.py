"""Kernels and books broken on purpose, one story for each check of the auditor."""

import asyncio
import contextlib
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, Final

from millpond import Allowance, PoolError, PoolTimeout
from millpond._core.breaker import Breaker
from millpond._core.lease import Lease
from millpond._core.slot import Slot, SlotState
from millpond._core.waiters import WaitQueue
from millpond.driver import Verdict
from millpond.events import CloseReason
from millpond.status import BreakerState, PoolState
from millpond.testing import AuditFailure, Auditor, run
from millpond.testing.driver import BackendDown, Ending, Fail, Hang, ReadOnly
from millpond.testing.loop import current
from tests.kernel.worlds import World

Story = Callable[[World], Awaitable[object]]


@dataclass
class Damage:
    """A broken kernel, in a story that shows it."""

    story: Story
    settings: dict[str, Any]
    limit: int | None


DAMAGES: Final[dict[str, Damage]] = {}
AT_THE_END: Final = (
    "A cancellation is not swallowed",
    "A closed pool leaves no task behind",
    "A closed pool leaves no connection behind",
    "The backend counts the connections closed that the books count",
    "Never lent dirty",
)
"""Sentences that are not in the lists of checks."""


def breaks(sentence: str, *, limit: int | None = None, **settings: Any) -> Callable[[Story], Story]:
    """Enter a story in which `sentence` does not hold."""

    def enter(story: Story) -> Story:
        DAMAGES[sentence] = Damage(story, settings, limit)
        return story

    return enter


def failures_in(damage: Damage) -> list[AuditFailure]:
    """What the auditor says to a story."""
    allowance = None if damage.limit is None else Allowance(damage.limit)
    world = World(0, {"min_size": 0, **damage.settings}, allowance)
    world.auditor = Auditor(world.pool, strict=True, raises=False)

    async def main() -> None:
        world.auditor.attach()
        with contextlib.suppress(PoolError):
            await damage.story(world)
        await asyncio.sleep(0.001)
        await current().settle()

    run(main, check_tasks=False, check_errors=False)
    for pool in world.pools:
        pool._ledger.slots.clear()  # nobody will close what was broken on purpose
    return world.auditor.failures


def nothing(*_: object, **__: object) -> None:
    """What a broken part does."""


def slot_of(world: World, place: int = 0) -> Any:
    return list(world.pool._ledger.slots.values())[place]


async def use(world: World, seconds: float = 0.0, **options: Any) -> None:
    """A lease that the backend knows of."""
    async with world.pool.acquire(**options) as conn:
        with world.backend.using(conn):
            await asyncio.sleep(seconds)


async def waiters(world: World, count: int) -> list[asyncio.Task[None]]:
    """Borrowers that wait."""
    tasks = [asyncio.create_task(use(world)) for _ in range(count)]
    await asyncio.sleep(0.01)
    return tasks


# -- 1 ----------------------------------------------------------------------------------------------


@breaks("No connection has more leases than it serves, and none but a busy one has any")
async def two_leases_of_one(world: World) -> None:
    lease = await world.pool.lease()
    other = Lease(world.pool, None)
    other.slot, other.since, other.task = lease.slot, 0.0, None
    slot_of(world).hold, slot_of(world).sharers = None, [lease, other]


@breaks("A lease is of one connection, and says so itself")
async def a_lease_that_names_another_connection(world: World) -> None:
    first, second = await world.pool.lease(), await world.pool.lease()
    first.slot = second.slot
    await world.pool.lease()


@breaks("A lease that has ended does not come back")
async def a_lease_comes_back(world: World) -> None:
    lease = await world.pool.lease()
    slot = slot_of(world)
    lease.release()
    await asyncio.sleep(0.001)
    world.pool._ledger.move(slot, SlotState.BUSY)
    lease.slot = slot
    slot.hold = lease


@breaks("Whoever uses a connection of the pool has a lease of it")
async def somebody_uses_what_is_idle(world: World) -> None:
    async with world.pool.acquire() as conn:
        pass
    world.backend.borrowed(conn, "somebody")


# -- 2 ----------------------------------------------------------------------------------------------


@breaks("A pool has at most max_size places taken; after a shrink what it had, and ever less", max_size=1)
async def opens_one_too_many(world: World) -> None:
    await world.pool.lease()
    world.pool._ledger.slots[9] = Slot(9, 0)
    world.pool._ledger.opening += 1


@breaks("Pools on one allowance have at most its limit of places taken, and it knows which", limit=1)
async def takes_a_place_nobody_gave(world: World) -> None:
    await use(world)
    world.allowance._held[world.pool] += 1  # type: ignore[union-attr]


@breaks("The backend counts no more sessions and attempts than the books of its pools")
async def opens_beside_the_books(world: World) -> None:
    await world.driver.connect()


@breaks("While a pool is larger than max_size nothing of it is idle")
async def keeps_what_is_too_much(world: World) -> None:
    await asyncio.gather(use(world, 0.1), use(world, 0.1))
    world.pool._ledger.max_size = 1
    await use(world)


# -- 3 ----------------------------------------------------------------------------------------------


@breaks(
    "Nobody waits while a usable connection is idle, or has room for one more lease", max_size=1, max_idle=5
)
async def finds_nothing(world: World) -> None:
    await use(world)
    world.pool._tender.ping = nothing  # type: ignore[method-assign]
    world.pool._lender.find = nothing  # type: ignore[method-assign, assignment]
    await waiters(world, 1)


@breaks(
    "Nobody waits while an idle connection has only to be pinged and nobody does",
    validate_after_idle=0,
    max_size=1,
)
async def pings_nothing(world: World) -> None:
    await use(world)
    world.pool._tender.ping = nothing  # type: ignore[method-assign]
    await waiters(world, 1)


@breaks("Nobody waits while a connection could be opened and nothing is under way")
async def opens_nothing(world: World) -> None:
    world.pool._opener.pump = nothing  # type: ignore[method-assign]
    await waiters(world, 1)


@breaks(
    "Nobody waits while another pool on the allowance has an idle connection and nobody who waits", limit=1
)
async def sheds_nothing(world: World) -> None:
    other = world.another_pool("other")
    other._keeper.shed = nothing  # type: ignore[method-assign]
    async with other.acquire():
        pass
    await waiters(world, 1)


# -- 4 ----------------------------------------------------------------------------------------------


@breaks("No lease begins while one who came earlier still waits", max_size=1)
async def serves_the_last_first(world: World) -> None:
    lease = await world.pool.lease()
    await waiters(world, 2)
    last = list(world.pool._ledger.waiters)[-1]
    slot = lease.slot
    world.pool._ledger.end_lease(slot, lease)  # type: ignore[arg-type]
    world.pool._lender.hand(last, slot, world.now())  # type: ignore[arg-type]


@breaks("Nobody is served in passing while others wait", max_size=1)
async def serves_a_newcomer(world: World) -> None:
    async with world.pool.acquire():
        await waiters(world, 1)
        world.pool._ledger.ended += 1
        await asyncio.sleep(0.001)


@breaks("Those who wait keep their order, newcomers queue behind, who moved here stands in front", max_size=1)
async def turns_the_queue_round(world: World) -> None:
    async with world.pool.acquire():
        await waiters(world, 2)
        world.pool._ledger.waiters.order.reverse()
        await waiters(world, 1)


@breaks("The queue is in the order of arrival, unless it was handed over from another pool", max_size=1)
async def lets_a_newcomer_in_front(world: World) -> None:
    join = WaitQueue.join
    WaitQueue.join = lambda self, waiter, first=False: join(self, waiter, first=True)  # type: ignore[method-assign, assignment, misc]
    async with world.pool.acquire():
        await waiters(world, 1)
        await waiters(world, 1)


@breaks("Those who are handed over to another pool stand there in the order that they had", max_size=1)
async def turns_them_round_on_the_way(world: World) -> None:
    heir = world.another_pool("heir")
    heir.pause()
    async with world.pool.acquire():
        await waiters(world, 3)
        world.pool._hand_over_waiters(heir)
        heir._ledger.waiters.order.reverse()
        await asyncio.sleep(0.001)


# -- 5 ----------------------------------------------------------------------------------------------


@breaks("Nobody waits past the deadline; after a stalled loop they get a moment", max_size=1)
async def forgets_the_time(world: World) -> None:
    world.pool._waiting.time_out = nothing  # type: ignore[method-assign]
    async with world.pool.acquire():
        late = asyncio.create_task(use(world, timeout=0.5))
        await asyncio.sleep(0.6)
        await asyncio.sleep(0.1)
        late.cancel()


@breaks("Nobody is served after the deadline", max_size=1)
async def serves_too_late(world: World) -> None:
    world.pool._waiting.time_out = nothing  # type: ignore[method-assign]
    async with world.pool.acquire():
        late = asyncio.create_task(use(world, timeout=0.5))
        await asyncio.sleep(0.6)
    await late


@breaks("A driver call that has had its time has been cancelled", connect_timeout=1.0)
async def lets_a_driver_go_on(world: World) -> None:
    world.backend.connect_script.append(Hang())
    tasks = await waiters(world, 1)
    call = next(iter(world.pool._openings.values()))
    call.due = math.inf
    await asyncio.sleep(1.1)
    await asyncio.sleep(0.1)
    tasks[0].cancel()
    call.abort()


# -- 6 ----------------------------------------------------------------------------------------------


@breaks("Every lease has a borrower who uses its connection")
async def lends_to_nobody(world: World) -> None:
    await world.pool.lease()


@breaks("No lease outlives the task that took it, unless it was leaked on purpose")
async def a_borrower_ends_and_keeps_its_lease(world: World) -> None:
    await asyncio.create_task(world.pool.lease())  # type: ignore[arg-type]


@breaks("No place is taken for longer than its driver call may last", connect_timeout=1.0)
async def waits_for_ever_for_a_driver(world: World) -> None:
    world.backend.connect_script.append(Hang())
    tasks = await waiters(world, 1)
    call = next(iter(world.pool._openings.values()))
    call.due = math.inf
    await asyncio.sleep(3.0)
    await asyncio.sleep(0.1)
    tasks[0].cancel()
    call.abort()


@breaks("A cancellation is not swallowed")
async def a_cancelled_task_goes_on(world: World) -> None:
    world.auditor.cancels(asyncio.create_task(asyncio.sleep(1.0)))  # type: ignore[arg-type]
    await asyncio.sleep(0.1)


@breaks("Nobody stands in the queue who was cancelled", max_size=1)
async def keeps_who_gave_up(world: World) -> None:
    world.pool._waiting.forsake = nothing  # type: ignore[method-assign]
    async with world.pool.acquire():
        _, behind = await waiters(world, 2)
        behind.cancel()
        await asyncio.sleep(0.001)


# -- 7 ----------------------------------------------------------------------------------------------


@breaks("What is idle holds nothing of its last borrower")
async def parks_what_is_dirty(world: World) -> None:
    world.backend.after_lease_script.append(Verdict.KEEP)
    async with world.pool.acquire() as conn:
        await conn.set("mine", 1)


@breaks("Never lent dirty")
async def lends_what_is_dirty(world: World) -> None:
    await parks_what_is_dirty(world)
    await use(world)


# -- 8 ----------------------------------------------------------------------------------------------


@breaks("No lease begins on a connection that is doomed, of an older generation, or known to be dead")
async def lends_an_old_one(world: World) -> None:
    await use(world)
    slot = slot_of(world)
    world.pool._ledger.generation += 1
    await asyncio.sleep(0.001)
    slot.generation = 0
    world.pool._lender.find = lambda _now: slot  # type: ignore[method-assign, assignment]
    await world.pool.lease()


@breaks(
    "No lease begins on a connection that was lent max_uses times, or is older than max_lifetime", max_uses=1
)
async def lends_a_worn_one(world: World) -> None:
    lease = await world.pool.lease()
    slot = slot_of(world)
    lease.release()
    world.pool._lender.find = lambda _now: slot  # type: ignore[method-assign, assignment]
    slot.state = SlotState.BUSY
    await world.pool.lease()


@breaks("A condemned connection keeps its place only while somebody holds it")
async def parks_what_is_condemned(world: World) -> None:
    await use(world)
    slot_of(world).conn.condemned = True
    world.pool._ledger.generation += 1


@breaks("What leaves the books has been closed or terminated, or is its borrower's own")
async def forgets_to_terminate(world: World) -> None:
    world.pool._keeper.terminate = nothing  # type: ignore[method-assign]
    (await world.pool.lease()).discard()


@breaks("What stands in the books has been neither closed nor terminated")
async def keeps_what_is_closed(world: World) -> None:
    await use(world)
    world.backend.end(slot_of(world).conn, Ending.CLOSED)
    await asyncio.sleep(0.001)


@breaks("DISCARD_ALL raises the generation once; from an older generation not at all")
async def does_not_fail_over(world: World) -> None:
    world.pool._keeper.fail_over = nothing  # type: ignore[method-assign]
    (await world.pool.lease()).release(ReadOnly())


@breaks("A fresh connection found unfit counts as a failed attempt")
async def counts_no_failure(world: World) -> None:
    world.pool._opener.note_failure = nothing  # type: ignore[method-assign]
    (await world.pool.lease()).release(ReadOnly())


# -- 9 ----------------------------------------------------------------------------------------------


@breaks("At most max_connecting attempts are under way", max_connecting=1)
async def hurries(world: World) -> None:
    world.pool._opener.permitted = lambda _now: 9  # type: ignore[method-assign, assignment]
    await waiters(world, 3)


@breaks("After a failure there is one attempt at a time, and not at once")
async def tries_again_at_once(world: World) -> None:
    world.backend.connect_script.append(Fail(BackendDown))
    world.pool._opener.permitted = lambda _now: 9  # type: ignore[method-assign, assignment]
    await waiters(world, 1)


@breaks("The breaker opens after failed attempts only, never because borrowers ran out of time", max_size=1)
async def takes_a_timeout_for_an_outage(world: World) -> None:
    async with world.pool.acquire():
        world.pool._opener.breaker.state = BreakerState.OPEN
        with contextlib.suppress(PoolTimeout):
            await use(world, timeout=0)
        await asyncio.sleep(0.001)


@breaks("The backend sees no more attempts at once than the books")
async def connects_beside_the_books(world: World) -> None:
    await asyncio.gather(*(world.driver.connect() for _ in range(3)))


@breaks("After failure_threshold failures in a row the breaker is open", failure_threshold=1)
async def never_opens_the_breaker(world: World) -> None:
    world.pool._opener.breaker = Breaker(None, 1)
    world.backend.connect_script.append(Fail(BackendDown))
    await waiters(world, 1)


# -- 10 ---------------------------------------------------------------------------------------------


@breaks("A closing pool has nobody who waits; a closed one has nothing", max_size=1)
async def lets_them_wait_for_the_end(world: World) -> None:
    lease = await world.pool.lease()
    await waiters(world, 1)
    world.pool._waiting.fail_all = nothing  # type: ignore[method-assign]
    closing = asyncio.create_task(world.pool.close(0.1))
    await asyncio.sleep(0.05)
    lease.release()
    closing.cancel()


@breaks("A pool that is paused, draining or closing lends nothing")
async def lends_while_it_is_paused(world: World) -> None:
    await use(world)
    world.pool.pause()
    await asyncio.sleep(0.001)
    world.pool._ledger.ended += 1


@breaks("A closing pool goes nowhere but to its end")
async def is_open_again(world: World) -> None:
    await world.pool.close()
    world.pool.state = PoolState.CLOSED
    await asyncio.sleep(0.001)
    world.pool.state = PoolState.OPEN


@breaks("A closed pool leaves no task behind")
async def leaves_a_task(world: World) -> None:
    await use(world)
    task = asyncio.create_task(asyncio.sleep(1.0), name="millpond world: ping 1")
    await world.pool.close()
    world.auditor.finish()
    task.cancel()


@breaks("A closed pool leaves no connection behind")
async def leaves_a_connection(world: World) -> None:
    await use(world)
    await world.driver.connect()
    await world.pool.close()
    world.auditor.finish()


# -- 11 ---------------------------------------------------------------------------------------------


@breaks("The ledger's own audit finds nothing")
async def counts_wrong(world: World) -> None:
    await use(world)
    world.pool._ledger.opened += 1


@breaks("The backend counts the connections that the books count")
async def books_what_nobody_opened(world: World) -> None:
    await use(world)
    world.backend._held.clear()
    await asyncio.sleep(0.001)


@breaks("No connection stands in the books that the backend did not open")
async def books_too_many(world: World) -> None:
    await use(world)
    world.pool._ledger.opened += 3
    world.pool._ledger.closed[CloseReason.IDLE] += 3
    await asyncio.sleep(0.001)


@breaks("The backend counts the connections closed that the books count")
async def books_too_many_ends(world: World) -> None:
    await use(world)
    await world.pool.close()
    world.pool._ledger.closed[CloseReason.IDLE] += 1
    world.auditor.finish()


# -- 15 ---------------------------------------------------------------------------------------------


@breaks("Below min_size an attempt is under way, or due after a failure, or there is no place", min_size=2)
async def has_no_floor(world: World) -> None:
    world.pool._opener._wanted_anyway = lambda: 0  # type: ignore[method-assign]
    await use(world, 0.1)


@breaks("No connection stays idle for longer than health_check_interval without a ping", max_size=1)
async def never_pings(world: World) -> None:
    world.pool._tender.sweep = nothing  # type: ignore[method-assign]
    await use(world)
    await asyncio.sleep(60.0)


@breaks(
    "What was idle is lent within validate_after_idle of its last proof of life, or pinged before",
    validate_after_idle=0.5,
)
async def lends_unseen(world: World) -> None:
    await use(world)
    world.pool._trusted_s = float("inf")
    await asyncio.sleep(1.0)
    await use(world)


@breaks("No connection is closed for being idle when there are no more than min_size", min_size=1)
async def closes_the_floor(world: World) -> None:
    await use(world)
    world.pool._tender.close(slot_of(world), CloseReason.IDLE)
    await asyncio.sleep(0.1)


@breaks("At most max_connecting pings are under way, but for those of check()", max_connecting=1)
async def pings_all_at_once(world: World) -> None:
    await asyncio.gather(*(use(world, 0.1) for _ in range(3)))
    for slot in list(world.pool._ledger.idle):
        world.pool._tender.ping(slot)
    await asyncio.sleep(0.1)
