"""Which connection a channel goes on, in every order of coming and going."""

import random
from itertools import count

import pytest

from millpond.drivers._rabbitmq_berths import Berths, Harbour


def harbour(*, least: int = 1, capacity: int = 3) -> tuple[Harbour[int], list[Berths[int]]]:
    """A harbour, and the berths of twelve channels."""
    numbers = count()
    made: Harbour[int] = Harbour(least=least)
    return made, [made.board(lambda: Berths(next(numbers), capacity)) for _ in range(12)]


def test_a_connection_is_filled_before_another_one_is_opened() -> None:
    """Twelve channels, three on each: four connections, and no more."""
    made, boarded = harbour()

    assert len(made.lines) == 4
    assert [each.line for each in boarded] == [0, 0, 0, 1, 1, 1, 2, 2, 2, 3, 3, 3]


def test_the_least_number_of_connections_is_opened_first() -> None:
    """With three to be kept, the first three channels get one each, and the others are spread."""
    _, boarded = harbour(least=3, capacity=50)

    assert [each.line for each in boarded] == [0, 1, 2] * 4


def test_a_connection_goes_with_its_last_channel() -> None:
    """Closing takes a while: till then the connection is there, and its berth is free already."""
    made, boarded = harbour()
    first = boarded[0]

    for _ in range(3):
        made.depart(first)
    assert first.has_room
    assert [made.leave(first) for _ in range(3)] == [False, False, True]

    assert first not in made.lines


def test_nothing_boards_what_is_condemned() -> None:
    """Its channels stay; it goes with the last of them."""
    made, boarded = harbour(capacity=50)
    boarded[0].is_condemned = True

    another = made.board(lambda: Berths(99, 50))

    assert another.line == 99
    assert boarded[0].taken == 12


@pytest.mark.parametrize("seed", range(20))
def test_there_are_never_more_connections_than_the_channels_need(seed: int) -> None:
    """In any order of coming and going; and at the end there is none."""
    draw = random.Random(seed)
    least, capacity, most = draw.randrange(1, 4), draw.randrange(1, 6), draw.randrange(1, 30)
    numbers = count()
    made: Harbour[int] = Harbour(least=least)
    channels: list[Berths[int]] = []
    for _ in range(400):
        if len(channels) < most and draw.random() < 0.55:
            channels.append(made.board(lambda: Berths(next(numbers), capacity)))
        elif channels:
            gone = channels.pop(draw.randrange(len(channels)))
            made.depart(gone)
            assert made.leave(gone) is (gone not in channels)

        assert len(made.lines) <= max(least, -(-most // capacity))
        assert all(0 < each.taken <= capacity for each in made.lines)
    while channels:
        gone = channels.pop()
        made.depart(gone)
        made.leave(gone)

    assert made.lines == []
