"""The allowance itself: who gets a place, who is told, and what the books say. No loop, no pool."""

import pytest

from millpond import Allowance, InvalidSettings, InvariantBroken


class Pool:
    """A member that only remembers what it was told."""

    def __init__(self) -> None:
        self.told_free = 0
        self.told_to_shed = 0
        self.told_of_company = 0

    def _place_is_free(self) -> None:
        self.told_free += 1

    def _please_shed(self) -> None:
        self.told_to_shed += 1

    def _company_changed(self) -> None:
        self.told_of_company += 1


def members(allowance: Allowance, count: int) -> list[Pool]:
    """Some pools that have joined."""
    pools = [Pool() for _ in range(count)]
    for pool in pools:
        allowance.join(pool)
    return pools


@pytest.mark.parametrize("limit", [0, -1, 1.5, True, "3"])
def test_a_limit_is_a_whole_number_of_one_at_least(limit: object) -> None:
    """Anything else is refused, at the beginning and later."""
    with pytest.raises(InvalidSettings):
        Allowance(limit)  # type: ignore[arg-type]
    allowance = Allowance(1)
    with pytest.raises(InvalidSettings):
        allowance.resize(limit)  # type: ignore[arg-type]

    assert allowance.limit == 1


def test_no_more_places_are_given_than_there_are() -> None:
    """The sum over all pools counts."""
    allowance = Allowance(3)
    first, second = members(allowance, 2)

    taken = [allowance.try_take(each, 0.0, urgent=True) for each in (first, second, first, second)]

    assert taken == [True, True, True, False]
    assert (allowance.used, allowance.free) == (3, 0)
    assert (allowance.held_by(first), allowance.held_by(second)) == (2, 1)


def test_a_freed_place_goes_to_who_wanted_it_first() -> None:
    """A pool that asks at the right moment does not overtake one that has been told."""
    allowance = Allowance(1)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)
    assert not allowance.try_take(third, 2.0, urgent=True)

    allowance.give_back(first)

    assert (second.told_free, third.told_free) == (1, 0)
    assert not allowance.try_take(third, 3.0, urgent=True)
    assert allowance.try_take(second, 3.0, urgent=True)


def test_who_has_been_served_wants_at_the_end_of_the_line() -> None:
    """Three pools that always want more get places in turn."""
    allowance = Allowance(1)
    pools = members(allowance, 3)
    holder = pools[0]
    assert allowance.try_take(holder, 0.0, urgent=True)
    served: list[int] = []
    for now in range(1, 10):
        for pool in pools:
            allowance.try_take(pool, float(now), urgent=True)
        allowance.give_back(holder)
        holder = next(pool for pool in pools if allowance.try_take(pool, float(now), urgent=True))
        served.append(pools.index(holder))

    assert served == [0, 1, 2, 0, 1, 2, 0, 1, 2]


def test_a_wish_that_is_taken_back_passes_the_place_on() -> None:
    """Who no longer wants stands in nobody's way."""
    allowance = Allowance(1)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)
    assert not allowance.try_take(third, 2.0, urgent=True)
    allowance.give_back(first)

    allowance.no_longer_wants(second)

    assert third.told_free == 1
    assert allowance.try_take(third, 3.0, urgent=True)


def test_a_wish_that_nobody_has_changes_nothing_when_it_is_taken_back() -> None:
    """It may be said at any time."""
    allowance = Allowance(1)
    first, second = members(allowance, 2)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)

    allowance.no_longer_wants(first)

    assert second.told_free == 0


def test_others_are_asked_to_shed_only_when_nothing_is_free() -> None:
    """A place that is free already needs nobody's connection."""
    allowance = Allowance(2)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert (second.told_to_shed, third.told_to_shed) == (0, 0)
    assert allowance.try_take(first, 0.0, urgent=True)

    assert not allowance.try_take(second, 1.0, urgent=True)

    assert (first.told_to_shed, second.told_to_shed, third.told_to_shed) == (1, 0, 1)


def test_a_waiting_borrower_comes_before_a_floor_that_wished_earlier() -> None:
    """The urgent wish is served first."""
    allowance = Allowance(1)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=False)
    assert not allowance.try_take(third, 2.0, urgent=True)

    allowance.give_back(first)

    assert (second.told_free, third.told_free) == (0, 1)
    assert allowance.try_take(third, 3.0, urgent=True)


@pytest.mark.parametrize("other_since", [1.0, 9.0])
@pytest.mark.parametrize("waiting_since", [None, 5.0])
def test_a_returned_connection_is_given_up_for_who_has_waited_longer(
    waiting_since: float | None, other_since: float
) -> None:
    """Without waiters of its own a pool gives up what is idle; with them, only to one who came earlier."""
    allowance = Allowance(2)
    first, second = members(allowance, 2)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, other_since, urgent=True)

    yields = allowance.should_yield(first, waiting_since, above_floor=True)

    assert yields is (waiting_since is None or other_since < waiting_since)


def test_who_has_an_equal_share_is_given_no_more_by_a_pool_with_waiters() -> None:
    """Two busy pools do not trade connections for ever."""
    allowance = Allowance(4)
    first, second = members(allowance, 2)
    for pool in (first, first, second, second):
        assert allowance.try_take(pool, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)

    assert not allowance.should_yield(first, 5.0, above_floor=True)
    assert allowance.should_yield(first, None, above_floor=True)


def test_a_floor_is_given_only_what_is_above_anothers_floor() -> None:
    """Floors that do not fit together trade nothing."""
    allowance = Allowance(1)
    first, second = members(allowance, 2)
    assert allowance.try_take(first, 0.0, urgent=False)
    assert not allowance.try_take(second, 1.0, urgent=False)

    assert allowance.should_yield(first, None, above_floor=True)
    assert not allowance.should_yield(first, None, above_floor=False)


def test_a_raised_limit_is_offered_at_once() -> None:
    """As many are told as there are places, in their order."""
    allowance = Allowance(1)
    first, *others = members(allowance, 4)
    assert allowance.try_take(first, 0.0, urgent=True)
    for since, pool in enumerate(others, start=1):
        assert not allowance.try_take(pool, float(since), urgent=True)

    allowance.resize(3)

    assert [pool.told_free for pool in others] == [1, 1, 0]


def test_a_lowered_limit_takes_nothing_back_and_gives_nothing_until_it_fits() -> None:
    """What is open stays; free is negative meanwhile."""
    allowance = Allowance(3)
    first, second = members(allowance, 2)
    for _ in range(3):
        assert allowance.try_take(first, 0.0, urgent=True)
    allowance.resize(1)
    assert not allowance.try_take(second, 1.0, urgent=True)
    assert allowance.free == -2

    allowance.give_back(first)
    allowance.give_back(first)
    assert second.told_free == 0
    allowance.give_back(first)

    assert second.told_free == 1


def test_a_place_that_was_never_taken_cannot_be_given_back() -> None:
    """That would make more places than there are."""
    allowance = Allowance(1)
    (pool,) = members(allowance, 1)

    with pytest.raises(InvariantBroken):
        allowance.give_back(pool)


def test_who_holds_places_cannot_leave_with_them() -> None:
    """They would be lost for the others."""
    allowance = Allowance(1)
    (pool,) = members(allowance, 1)
    assert allowance.try_take(pool, 0.0, urgent=True)

    with pytest.raises(InvariantBroken):
        allowance.leave(pool)


def test_who_leaves_leaves_no_wish_behind() -> None:
    """The next in line is told, and shares are counted without it."""
    allowance = Allowance(2)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)
    assert not allowance.try_take(third, 2.0, urgent=True)
    allowance.give_back(first)

    allowance.leave(second)

    assert third.told_free == 1
    assert "2 pools, 1 wanting" in repr(allowance)


def test_a_stranger_holds_nothing_and_has_nothing_to_give_back() -> None:
    """It may leave; what it never took it cannot return."""
    allowance = Allowance(1)
    stranger = Pool()

    assert allowance.held_by(stranger) == 0
    allowance.leave(stranger)
    with pytest.raises(InvariantBroken, match=r"^a place was given back that was not taken \["):
        allowance.give_back(stranger)


def test_what_is_wrong_is_said() -> None:
    """In the words of whoever reads the log."""
    allowance = Allowance(1)
    (pool,) = members(allowance, 1)
    assert allowance.try_take(pool, 0.0, urgent=True)

    with pytest.raises(InvariantBroken, match=r"^a pool left its allowance while it held places \["):
        allowance.leave(pool)
    with pytest.raises(InvalidSettings, match=r"^limit: must be an? .*, got 0"):
        Allowance(0)


def test_a_member_that_is_forgotten_holds_and_wants_nothing() -> None:
    """In the child of a fork the parent's places are nobody's."""
    allowance = Allowance(2)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)
    assert not allowance.try_take(third, 1.0, urgent=False)

    for pool in (first, second, third, Pool()):
        allowance.forget(pool)

    assert repr(allowance) == "<Allowance 0/2, 0 pools, 0 wanting>"


@pytest.mark.parametrize("urgent", [True, False])
def test_who_wants_for_another_reason_wants_once(urgent: bool) -> None:
    """A borrower came, or left: the wish moves to the other line, and leaves no shadow."""
    allowance = Allowance(1)
    first, second = members(allowance, 2)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=not urgent)
    assert not allowance.try_take(second, 2.0, urgent=urgent)
    assert "1 wanting" in repr(allowance)

    allowance.no_longer_wants(second)

    assert "0 wanting" in repr(allowance)


def test_who_asks_behind_others_for_a_place_that_is_free_makes_nobody_shed() -> None:
    """The free place goes to the one who asked before; nobody has to close anything for it."""
    allowance = Allowance(1)
    first, second, third = members(allowance, 3)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)
    allowance.give_back(first)
    told = [pool.told_to_shed for pool in (first, second, third)]

    assert not allowance.try_take(third, 2.0, urgent=True)

    assert [pool.told_to_shed for pool in (first, second, third)] == told


@pytest.mark.parametrize("waiting_since", [None, 5.0])
def test_nothing_is_given_up_while_a_place_is_free(waiting_since: float | None) -> None:
    """Who wants one will take it."""
    allowance = Allowance(2)
    first, second = members(allowance, 2)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 1.0, urgent=True)
    allowance.give_back(first)

    assert not allowance.should_yield(first, waiting_since, above_floor=True)


@pytest.mark.parametrize(("limit", "pools", "yields"), [(3, 2, False), (4, 2, True), (3, 4, False)])
def test_an_equal_share_is_a_whole_number_of_one_at_least(limit: int, pools: int, yields: bool) -> None:
    """The other holds one place: with three places for two pools, or for four, that is its share."""
    allowance = Allowance(limit)
    first, other, *_ = members(allowance, pools)
    assert allowance.try_take(other, 0.0, urgent=True)
    while allowance.try_take(first, 0.0, urgent=True):
        pass
    allowance.no_longer_wants(first)
    assert not allowance.try_take(other, 1.0, urgent=True)

    assert allowance.should_yield(first, 5.0, above_floor=True) is yields


def test_who_came_at_the_same_instant_is_not_let_past() -> None:
    """Two that began to wait together do not trade connections."""
    allowance = Allowance(2)
    first, second = members(allowance, 2)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert allowance.try_take(first, 0.0, urgent=True)
    assert not allowance.try_take(second, 5.0, urgent=True)

    assert not allowance.should_yield(first, 5.0, above_floor=True)


def test_a_pool_is_alone_until_another_joins_and_when_the_last_other_leaves() -> None:
    """While it is, nobody needs to be asked; each change is told to all who are there."""
    allowance = Allowance(3)
    first, second = Pool(), Pool()
    allowance.join(first)
    assert allowance.is_alone(first)
    assert first.told_of_company == 1
    allowance.join(second)
    assert not allowance.is_alone(first)
    assert not allowance.is_alone(second)
    assert (first.told_of_company, second.told_of_company) == (2, 1)
    allowance.leave(first)
    assert allowance.is_alone(second)
    assert (first.told_of_company, second.told_of_company) == (2, 2)
