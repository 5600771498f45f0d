"""Numbers of tickets: each is given once, by however many processes, and few are left out."""

import asyncio

from eventstore.ticket_numbers import BEHIND_A_RESTORE, COLLECTION, Numbers


async def test_many_processes_at_once_are_given_different_numbers(any_database):
    processes = [Numbers(any_database.collection(COLLECTION)) for _ in range(4)]
    taken = await asyncio.gather(*(each.take() for each in processes for _ in range(100)))
    assert len(set(taken)) == 400
    assert min(taken) == 1


async def test_a_process_that_opens_a_ticket_now_and_then_leaves_hardly_a_gap(database):
    for expected in (1, 2, 3):  # each time after a start
        assert await Numbers(database.collection(COLLECTION)).take() == expected


async def test_a_process_that_opens_many_asks_seldom(memory, monkeypatch):
    numbers, asked = Numbers(memory.collection(COLLECTION)), []
    reserve = numbers._reserve

    async def counted():
        asked.append(1)
        await reserve()

    monkeypatch.setattr(numbers, "_reserve", counted)
    assert [await numbers.take() for _ in range(1000)] == list(range(1, 1001))
    assert len(asked) < 15


async def test_a_restored_log_goes_on_far_above_its_highest_number(database):
    numbers = Numbers(database.collection(COLLECTION))
    await numbers.restored(7)
    assert await numbers.take() == 7 + BEHIND_A_RESTORE + 1
    await Numbers(database.collection(COLLECTION)).restored(3)  # the counter is never set back
    assert await Numbers(database.collection(COLLECTION)).take() > 7 + BEHIND_A_RESTORE + 1
