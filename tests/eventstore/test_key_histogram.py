"""The histogram of keys: what is read is known afterwards, however it is spread and asked for."""

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from eventstore.mongo.key_histogram import (
    BEGIN,
    DEPTH,
    END,
    LAST_ID,
    Histogram,
    behind,
    number,
    time_and_id,
)

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def keys_of(chance: Random, n: int, moments: int) -> list[int]:
    """Some keys, many of one moment if there are few moments."""
    times = [DAY + timedelta(milliseconds=chance.randrange(10**9)) for _ in range(moments)]
    return sorted(number(chance.choice(times), chance.getrandbits(128)) for _ in range(n))


@pytest.mark.parametrize("forward", [True, False])
@pytest.mark.parametrize("moments", [1, 3, 100, 10_000])
def test_so_many_keys_as_are_wanted_are_found_at_once_where_all_has_been_read(moments, forward):
    chance = Random(moments)  # noqa: S311
    keys = keys_of(chance, 3000, moments)
    if not forward:
        keys = [END - key for key in keys[::-1]]
    known = Histogram()
    assert known.reach(BEGIN, 1) == BEGIN
    known.learn(BEGIN, END, keys)
    for _ in range(600):
        at, wanted = chance.randrange(len(keys)), chance.choice([1, 50, 500])
        edge = chance.choice([keys[at], keys[at] - 1])
        far = known.reach(edge, wanted)
        read = [key for key in keys if edge < key <= far]
        left = sum(key > edge for key in keys)
        assert min(wanted, left) <= len(read) <= wanted + 4 * DEPTH
        known.learn(edge, far, read)
    assert len(known) < 3 * len(keys) / DEPTH


def test_a_key_is_made_of_a_time_and_an_id():
    id_ = UUID(int=Random(3).getrandbits(128))  # noqa: S311
    assert time_and_id(number(DAY, id_.int)) == (DAY, id_)
    assert number(DAY) < number(DAY, 1) < number(DAY, LAST_ID) < number(DAY + timedelta(seconds=1))


def test_what_was_wrong_is_known_better_once_it_was_read():
    keys = keys_of(Random(1), 5000, 5000)  # noqa: S311
    known = Histogram()
    known.learn(BEGIN, END, keys[::100])
    far = known.reach(BEGIN, 50)
    known.learn(BEGIN, far, [key for key in keys if key <= far])
    assert len([key for key in keys if key <= known.reach(BEGIN, 50)]) < 200


def test_a_cut_parts_no_moment_unless_many_are_of_it():
    few = [*(number(DAY, n) for n in range(5)), number(DAY + timedelta(days=1), LAST_ID)]
    assert behind(few, 2, END) == (5, number(DAY, LAST_ID))
    assert behind(few, 6, END) == (6, END)
    backward = [END - key for key in few[::-1]]
    assert behind(backward, 1, END) == (1, backward[0] | LAST_ID)
    assert behind(backward, 2, END) == (6, END)
    many = [number(DAY, n) for n in range(10 * DEPTH)]
    assert behind(many, 10, END) == (10 + DEPTH, many[9 + DEPTH])
    backward = [END - key for key in many[::-1]]
    assert behind(backward, 10, END) == (10 + DEPTH, backward[9 + DEPTH])


@pytest.mark.parametrize("moments", [1, 10_000])
def test_what_is_too_much_is_parted_until_it_is_not(moments):
    """Whatever was believed of it, and then it is known again."""
    keys = keys_of(Random(2), 5000, moments)  # noqa: S311
    known = Histogram()
    known.learn(BEGIN, END, [])
    edge, failed = BEGIN, 0
    while edge < END:
        far = known.reach(edge, len(keys))
        if far == edge:
            far = known.into_unknown(edge, END)
        assert far > edge
        read = [key for key in keys if edge < key <= far]
        if len(read) > 500:
            known.part(edge, far)
            failed += 1
            continue
        known.learn(edge, far, read)
        edge = far
    assert 0 < failed < 20
    assert known.reach(BEGIN, len(keys)) >= keys[-1]
    assert len(known) < 3 * len(keys) / DEPTH
