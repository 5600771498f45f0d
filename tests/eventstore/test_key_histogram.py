"""The histogram of keys: what is read is known afterwards, however it is spread and asked for."""

from datetime import UTC, datetime, timedelta
from random import Random
from uuid import UUID

import pytest

from eventstore.mongo.key_histogram import BEGIN, DEPTH, END, LAST_ID, Histogram, Key, behind

DAY = datetime(2026, 3, 1, tzinfo=UTC)


def keys_of(chance: Random, n: int, moments: int) -> list[Key]:
    """Some keys, many of one moment if there are few moments."""
    times = [DAY + timedelta(milliseconds=chance.randrange(10**9)) for _ in range(moments)]
    return sorted(Key(chance.choice(times), UUID(int=chance.getrandbits(128))) for _ in range(n))


@pytest.mark.parametrize("moments", [1, 3, 100, 10_000])
def test_so_many_keys_as_are_wanted_are_found_at_once_where_all_has_been_read(moments):
    chance = Random(moments)  # noqa: S311
    keys = keys_of(chance, 3000, moments)
    known = Histogram()
    assert known.reach(BEGIN, 1, forward=True) == BEGIN
    known.learn(BEGIN, END, keys)
    for _ in range(300):
        at, wanted = chance.randrange(len(keys)), chance.choice([1, 50, 500])
        for forward in (True, False):
            edge = keys[at] if forward else keys[at].before()
            far = known.reach(edge, wanted, forward=forward)
            low, high = (edge, far) if forward else (far, edge)
            read = [key for key in keys if low < key <= high]
            left = len(keys) - 1 - at if forward else at
            assert min(wanted, left) <= len(read) <= wanted + 4 * DEPTH
            known.learn(low, high, read)
    assert len(known) < 3 * len(keys) / DEPTH


def test_what_was_wrong_is_known_better_once_it_was_read():
    keys = keys_of(Random(1), 5000, 5000)  # noqa: S311
    known = Histogram()
    known.learn(BEGIN, END, keys[::100])
    far = known.reach(BEGIN, 50, forward=True)
    known.learn(BEGIN, far, [key for key in keys if key <= far])
    assert len([key for key in keys if key <= known.reach(BEGIN, 50, forward=True)]) < 200


def test_a_cut_parts_no_moment_unless_many_are_of_it():
    few = [Key(DAY, UUID(int=n)) for n in range(5)] + [Key(DAY + timedelta(days=1), LAST_ID)]
    assert behind(few, 2, END) == (5, Key(DAY, LAST_ID))
    assert behind(few, 6, END) == (6, END)
    assert behind(few[::-1], 1, BEGIN, forward=False)[1] < few[-1]
    many = [Key(DAY, UUID(int=n)) for n in range(10 * DEPTH)]
    assert behind(many, 10, END) == (10 + DEPTH, many[9 + DEPTH])
    backward = behind(many[::-1], 10, BEGIN, forward=False)
    assert backward == (10 + DEPTH, many[-10 - DEPTH].before())
    assert Key(DAY, UUID(int=0)).before() == Key(DAY - timedelta(milliseconds=1), LAST_ID)


@pytest.mark.parametrize("moments", [1, 10_000])
def test_what_is_too_much_is_parted_until_it_is_not(moments):
    """Whatever was believed of it, and then it is known again."""
    keys = keys_of(Random(2), 5000, moments)  # noqa: S311
    known = Histogram()
    known.learn(BEGIN, END, [])
    edge, failed = BEGIN, 0
    while edge < END:
        far = known.reach(edge, len(keys), forward=True)
        if far == edge:
            far = known.into_unknown(edge, BEGIN.time, END.time - BEGIN.time, forward=True)
        assert far > edge
        read = [key for key in keys if edge < key <= far]
        if len(read) > 500:
            known.part(edge, far)
            failed += 1
            continue
        known.learn(edge, far, read)
        edge = far
    assert 0 < failed < 20
    assert known.reach(BEGIN, len(keys), forward=True) >= keys[-1]
    assert len(known) < 3 * len(keys) / DEPTH
