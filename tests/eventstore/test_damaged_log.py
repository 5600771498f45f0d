"""What is told of a log that cannot be so: of which event, and what is to be done about it."""

from uuid import UUID

import pytest

from domain.errors import HistoryError
from eventstore.log import EventStore
from projections.generations import Generations
from projections.projector.parked import ParkedTickets
from tests.api.test_api import is_problem, serving
from tests.callers import AGENT
from tests.projecting import by_utc, caught_up, open_some, running

UPGRADE, RESTORE = "upgrade this process", "restore it from an export"


@pytest.mark.parametrize(
    ("damage", "code", "remedy"),
    [
        ({"$set": {"type": "TicketExploded"}}, "unknown_event_type", UPGRADE),
        ({"$set": {"schema": 99}}, "unknown_event_schema", UPGRADE),
        ({"$set": {"data": {"mood": "good"}}}, "unreadable_event", RESTORE),
        ({"$set": {"type": "TicketOpened", "schema": 1}}, "unreadable_event", RESTORE),
        (None, "not_the_next_version", RESTORE),
    ],
)
async def test_damage_is_told_with_its_place_and_remedy(database, store, damage, code, remedy):
    """To clients, to who folds, and of parked tickets; all other tickets go on."""
    damaged, whole = await open_some(store, 2)
    log = database.collection("ticket_events")
    second = {"ticket_id": damaged, "version": 2}
    version = 2
    if damage is None:
        await log.delete_one(second)
        version = 3
    else:
        await log.update_one(second, damage)
    place = f"event {version} of ticket {damaged}"
    async with serving(database, project=False) as client:
        path = f"/tickets/{damaged}"
        for answer in (
            await client.get(path),
            await client.post(f"{path}/add_note", json={"body": "x"}, headers=AGENT),
        ):
            detail = is_problem(answer, 500, code)["detail"]
            assert place in detail
            assert remedy in detail
            assert detail.count(place) == 1
        other = await client.post(f"/tickets/{whole}/add_note", json={"body": "x"}, headers=AGENT)
        assert other.status_code == 200
    async with running(by_utc(database, store)):
        await caught_up(database, store)
        shown = await Generations(database).shown()
        [parked] = await ParkedTickets(shown).all()
    assert parked.ticket_id == damaged
    assert place in str(parked.error)


async def test_what_is_no_event_is_named_and_not_shown(database, store):
    """What it holds may be somebody's words."""
    [ticket_id] = await open_some(store, 1)
    log = database.collection("ticket_events")
    await log.update_one(
        {"ticket_id": ticket_id, "version": 1}, {"$unset": {"hash": ""}, "$set": {"x": "a secret"}}
    )
    for asked in (EventStore(database).heads(), EventStore(database).load(ticket_id)):
        with pytest.raises(HistoryError) as told:
            await asked
        assert str(ticket_id) in told.value.detail
        assert RESTORE in told.value.detail
        assert "a secret" not in told.value.detail
    assert isinstance(ticket_id, UUID)
