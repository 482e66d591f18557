"""The queue: order, deadlines, who left, and that nothing of them is kept. No loop, no clock."""

import random
from concurrent.futures import Future
from typing import Any

import pytest

from millpond import InvariantBroken
from millpond._core.waiters import Waiter, WaiterState, WaitQueue


def waiter(deadline: float | None = None, *, queued_at: float = 0.0, place: int | None = None) -> Waiter:
    """One who waits; a future of another kind stands in for the loop's."""
    future: Any = Future()
    hold: Any = object()
    return Waiter(hold, future, queued_at, deadline, place)


def queue_of(*waiters: Waiter) -> WaitQueue:
    """A queue which they joined in this order."""
    queue = WaitQueue()
    for each in waiters:
        queue.join(each)
    return queue


def kept(queue: WaitQueue) -> tuple[int, int]:
    """How many entries it keeps: of its order, and of its deadlines."""
    return len(queue.order), queue.deadlines_kept


def test_a_waiter_knows_what_it_waits_for() -> None:
    """Hold, future, since when, until when, in which place; and it waits."""
    future: Any = Future()
    hold: Any = object()
    one = Waiter(hold, future, 3.0, 5.0, 7)

    assert (one.hold, one.future, one.queued_at, one.deadline, one.place) == (hold, future, 3.0, 5.0, 7)
    assert Waiter(hold, future, 3.0, 5.0).place is None
    assert one.state is WaiterState.WAITING
    assert one.is_waiting


def test_who_came_first_is_first() -> None:
    """Until it is settled; then the next one is."""
    first, second = waiter(), waiter()
    queue = queue_of(first, second)

    assert queue.first() is first
    assert len(queue) == queue.live == 2
    queue.settle(first, WaiterState.SERVED)
    assert queue.first() is second
    queue.settle(second, WaiterState.FAILED)
    assert queue.first() is None
    assert (len(queue), queue.left) == (0, 0)


def test_who_held_the_front_before_gets_it_again() -> None:
    """It does not queue twice for one request."""
    first, second = waiter(), waiter()
    queue = queue_of(second)
    queue.join(first, first=True)

    assert list(queue) == [first, second]


@pytest.mark.parametrize("position", range(4))
def test_who_asks_again_gets_the_place_it_had(position: int) -> None:
    """Behind those who were before it, before those who came after it, newcomers too."""
    waiters = [waiter() for _ in range(4)]
    queue = queue_of(*waiters)
    one = waiters[position]
    queue.settle(one, WaiterState.SERVED)
    newcomer = waiter()
    queue.join(newcomer)
    again = waiter(place=one.place)
    queue.join(again)

    expected = [*waiters, newcomer]
    expected[position] = again
    assert list(queue) == expected
    assert queue.live == 5


@pytest.mark.parametrize("position", range(3))
def test_those_who_came_from_another_queue_keep_their_order_when_they_ask_again(position: int) -> None:
    """They stand before those who are here, the last that was put in front first of all."""
    here = [waiter(), waiter()]
    queue = queue_of(*here)
    moved = [waiter() for _ in range(3)]
    for each in reversed(moved):
        queue.join(each, first=True)
    one = moved[position]
    queue.settle(one, WaiterState.SERVED)
    assert queue.first() is moved[0 if position else 1]
    again = waiter(place=one.place)
    queue.join(again)

    moved[position] = again
    assert list(queue) == [*moved, *here]


def test_who_was_cancelled_a_moment_ago_swallows_no_turn() -> None:
    """Its task has not run yet, but its future tells."""
    cancelled, next_one = waiter(), waiter()
    queue = queue_of(cancelled, next_one)
    cancelled.future.cancel()

    assert not cancelled.is_waiting
    assert queue.first() is next_one
    assert (cancelled.state, queue.live, queue.left) == (WaiterState.LEFT, 1, 1)


def test_who_was_settled_is_not_settled_again_when_it_reaches_the_front() -> None:
    """Counts move once."""
    first, second = waiter(), waiter()
    queue = queue_of(first, second)
    queue.settle(first, WaiterState.LEFT)
    assert queue.first() is second

    assert (queue.live, queue.left) == (1, 1)


def test_those_in_the_middle_who_left_are_passed_over() -> None:
    """They are only marked."""
    waiters = [waiter() for _ in range(5)]
    queue = queue_of(*waiters)
    for gone in (1, 2, 3):
        queue.settle(waiters[gone], WaiterState.LEFT)

    assert list(queue) == [waiters[0], waiters[4]]
    queue.settle(waiters[0], WaiterState.SERVED)
    assert queue.first() is waiters[4]


def test_the_oldest_is_the_one_who_is_next() -> None:
    """By when it queued; None when nobody waits."""
    queue = queue_of(waiter(queued_at=3.0), waiter(queued_at=4.0))

    assert queue.oldest_at == queue.waiting_since() == 3.0
    assert WaitQueue().oldest_at is None
    assert WaitQueue().waiting_since() is None


def test_looking_since_when_somebody_waits_changes_nothing() -> None:
    """A status from another thread must not touch the queue."""
    cancelled, other = waiter(queued_at=1.0), waiter(queued_at=2.0)
    queue = queue_of(cancelled, other)
    cancelled.future.cancel()

    assert queue.waiting_since() == 2.0
    assert (queue.live, queue.left, kept(queue)) == (2, 0, (2, 0))


def test_a_queue_that_changes_while_it_is_looked_at_is_looked_at_again() -> None:
    """Another thread may change it; after three times nothing is known."""

    class Order:
        """Raises as a deque does that is changed during iteration, as often as it is told to."""

        def __init__(self, times: int) -> None:
            self.times = times

        def __iter__(self) -> Any:
            if self.times:
                self.times -= 1
                raise RuntimeError("deque mutated during iteration")
            return iter([waiter(queued_at=9.0)])

    queue = WaitQueue()
    seen = []
    for times in (2, 3):
        queue.order = Order(times)  # type: ignore[assignment]
        seen.append(queue.waiting_since())

    assert seen == [9.0, None]


def test_deadlines_come_in_their_own_order() -> None:
    """Whatever the order of arrival, the earliest is next; who waits for ever has none."""
    late, early, never = waiter(9.0), waiter(2.0), waiter(None)
    queue = queue_of(late, early, never)

    assert queue.next_deadline == 2.0
    assert queue.expired(1.9) == []
    assert queue.expired(2.0) == [early]
    assert queue.next_deadline == 9.0
    assert queue.expired(9.5) == [late]
    assert queue.next_deadline is None
    assert queue.live == 3


def test_those_who_expire_together_come_earliest_first() -> None:
    """And in the order of arrival among equals, without comparing waiters."""
    deadlines = [5.0, 1.0, 3.0, 1.0, 4.0]
    waiters = [waiter(deadline) for deadline in deadlines]
    queue = queue_of(*waiters)

    assert queue.expired(4.0) == [waiters[1], waiters[3], waiters[2], waiters[4]]


def test_who_was_served_does_not_expire() -> None:
    """Nor one who was cancelled a moment ago."""
    served, cancelled, waiting = waiter(1.0), waiter(2.0), waiter(3.0)
    queue = queue_of(served, cancelled, waiting)
    queue.settle(served, WaiterState.SERVED)
    cancelled.future.cancel()

    assert queue.next_deadline == 2.0
    assert queue.expired(3.0) == [waiting]


@pytest.mark.parametrize("deadline", [None, 60.0])
def test_nothing_is_kept_of_those_who_left(deadline: float | None) -> None:
    """Ten thousand who came and left behind one who stays: memory stays bounded."""
    queue = queue_of(waiter(deadline))
    most = [0, 0]
    for _ in range(10_000):
        leaving = waiter(deadline)
        queue.join(leaving)
        queue.settle(leaving, WaiterState.LEFT)
        most = [max(pair) for pair in zip(most, kept(queue), strict=True)]

    assert most == [65, 65 if deadline else 0]
    assert queue.left == 10_000


@pytest.mark.parametrize("end", ["served", "taken", "left"])
def test_when_nobody_waits_any_more_nothing_is_kept(end: str) -> None:
    """What has waited holds a task, and with it a request, a connection: not until its deadline."""
    waiters = [waiter(60.0) for _ in range(5)]
    queue = queue_of(*waiters)
    for each in reversed(waiters) if end == "left" else waiters:
        if end == "taken":
            queue.take()
        else:
            queue.settle(each, WaiterState(end))

    assert kept(queue) == (0, 0)
    queue.join(late := waiter(1.0))
    assert queue.expired(2.0) == [late]
    assert queue.take() is late


@pytest.mark.parametrize(("joined", "swept_at"), [(100, 65), (128, 65), (129, 65), (130, 66), (300, 151)])
def test_a_sweep_waits_until_the_dead_outnumber_the_living(joined: int, swept_at: int) -> None:
    """And are more than 64, so that it costs O(1) for each who leaves."""
    waiters = [waiter(float(number)) for number in range(joined)]
    queue = queue_of(*waiters)
    sizes = []
    for gone in reversed(waiters[joined - swept_at :]):
        queue.settle(gone, WaiterState.LEFT)
        sizes.append(kept(queue))

    assert sizes[:-1] == [(joined, joined)] * (swept_at - 1)
    assert sizes[-1] == (joined - swept_at, joined - swept_at)
    assert list(queue) == waiters[: joined - swept_at]


def test_who_is_taken_is_served_and_out_of_the_queue() -> None:
    """In order, without who was cancelled; from an empty queue nobody is taken."""
    first, cancelled, second = waiter(), waiter(), waiter()
    queue = queue_of(first, cancelled, second)
    cancelled.future.cancel()

    assert queue.take() is first
    assert (first.state, queue.live, kept(queue)) == (WaiterState.SERVED, 2, (2, 0))
    assert queue.take() is second
    assert queue.take() is None
    assert (queue.live, queue.left, kept(queue)) == (0, 1, (0, 0))


@pytest.mark.parametrize("joined", [65, 66, 67, 100, 101, 300])
def test_deadlines_of_those_who_were_taken_are_swept_out(joined: int) -> None:
    """When more than 64 are kept beyond twice those who still wait."""
    patient = waiter(1e9)  # whoever comes after it runs out of time before it: none is in order
    queue = queue_of(patient, *(waiter(float(number)) for number in range(joined)))
    assert queue.take() is patient
    sizes: list[tuple[int, int]] = []
    while not sizes or sizes[-1][1] == joined:
        queue.take()
        sizes.append(kept(queue))

    expected = next(taken for taken in range(1, joined + 1) if joined > 64 + 2 * (joined - taken))
    assert sizes == [*((joined - taken, joined) for taken in range(1, expected)), (joined - expected,) * 2]


def test_deadlines_that_came_in_order_go_with_those_who_are_taken() -> None:
    """As they do when all wait equally long."""
    queue = queue_of(*(waiter(float(number)) for number in range(100)))
    sizes = []
    for _ in range(100):
        queue.take()
        sizes.append(kept(queue))

    assert sizes == [(left, left) for left in reversed(range(100))]


def test_deadlines_are_in_order_after_a_sweep_too() -> None:
    """The heap is made anew from what is left of it."""
    rng = random.Random(0)
    waiters = [waiter(rng.random()) for _ in range(300)]
    queue = queue_of(*waiters)
    for gone in waiters[:200]:
        queue.settle(gone, WaiterState.LEFT)
    left = waiters[200:]

    assert queue.deadlines_kept < 300
    expired = queue.expired(1.0)
    assert expired == sorted(left, key=lambda each: each.deadline or 0.0)


def test_those_who_are_let_go_leave_nothing_behind() -> None:
    """They come in their order, without who was cancelled, and belong to another queue from then on."""
    first, cancelled, served, last = waiter(3.0), waiter(1.0), waiter(2.0), waiter()
    queue = queue_of(first, cancelled, served, last)
    queue.settle(served, WaiterState.SERVED)
    cancelled.future.cancel()

    assert queue.let_go() == [first, last]
    assert (queue.live, queue.left, kept(queue)) == (0, 1, (0, 0))
    assert (queue.first(), queue.next_deadline) == (None, None)
    assert first.is_waiting


@pytest.mark.parametrize(
    ("mine", "theirs", "is_sooner"),
    [
        ((0.0, 0), (0.5, 0), True), ((0.5, 0), (0.0, 0), False), ((1.0, 0), (1.0, 1), True),
        ((1.0, 1), (1.0, 0), False), ((1.0, 0), (1.0, 0), False), ((1.0, -1), (1.0, 0), True),
    ],
)  # fmt: skip
def test_the_earlier_deadline_comes_first_then_the_earlier_place(
    mine: tuple[float, int], theirs: tuple[float, int], is_sooner: bool
) -> None:
    """An instant of 0 and the place 0 are such as any other."""
    one, other = (waiter(deadline, place=place) for deadline, place in (mine, theirs))
    assert (one < other) is is_sooner


def test_the_front_is_ahead_of_everybody() -> None:
    """Of those who came first before, too."""
    queue = queue_of(waiter(), waiter())
    places = [queue.front(), queue.front()]
    assert places[1] < places[0] < 0
    late = waiter(place=places[1])
    queue.join(late)
    assert queue.first() is late


def test_a_settled_waiter_is_not_settled_again() -> None:
    """The error says what it was, and what it was to be."""
    one = waiter()
    queue = queue_of(one)
    queue.settle(one, WaiterState.SERVED)
    with pytest.raises(InvariantBroken, match="waiter served -> left"):
        queue.settle(one, WaiterState.LEFT)
