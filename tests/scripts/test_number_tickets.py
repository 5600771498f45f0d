"""`casebook number-tickets`: tickets of before there were numbers get theirs."""

from uuid import uuid4

from api.commands.handler import Handler
from domain.codec import EventData
from domain.tickets import encode
from eventstore.event_document import EMPTY, CommandRef, Metadata, chained, utc_now
from scripts.number_tickets import number_all
from tests.api.test_handler import OPEN
from tests.callers import by
from tests.projecting import open_some
from tests.spec import BOB, NOW, opened


async def opened_before(store):
    """A ticket as it was written before there were numbers."""
    data = dict(encode(opened()).data)
    del data["number"]
    about = Metadata(BOB, CommandRef("k", "f"))
    events = [EventData("TicketOpened", 2, data), EventData("NoteAdded", 1, {"body": "x"})]
    ticket_id = uuid4()
    await store.append(chained(ticket_id, EMPTY, events, about, NOW, utc_now()))
    return ticket_id


async def numbered(store, ticket_id):
    return [e.data["number"] for e in await store.load(ticket_id) if "number" in e.data]


async def test_each_old_ticket_gets_one_number_in_the_order_of_their_opening(database, store):
    old = [await opened_before(store) for _ in range(3)]
    new = uuid4()
    await Handler(store).handle(new, by(BOB, OPEN))
    assert await number_all(database) == 0
    assert await numbered(store, new) == [1]
    numbers = [await numbered(store, ticket_id) for ticket_id in old]
    assert sorted(numbers) == [[2], [3], [4]]
    assert await number_all(database) == 0  # again, as after it was interrupted
    assert [await numbered(store, ticket_id) for ticket_id in old] == numbers


async def test_a_ticket_that_cannot_be_read_keeps_no_other_from_its_number(database, store, capsys):
    [bad] = await open_some(store, 1)
    await store._events.update_one({"ticket_id": bad, "version": 1}, {"$set": {"schema": 99}})
    good = await opened_before(store)
    assert await number_all(database) == 1
    assert await numbered(store, good) == [1]
    assert f"ticket {bad}: unknown schema 99" in capsys.readouterr().err
