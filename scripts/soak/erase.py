"""Persons erased under load, by processes that are killed between any two steps.

In each round a person has tickets, with words that stand nowhere else, an API key, a saved view and
a line in the access log. One process erases the person, and is killed; the next completes it. Then
no document of either database has those words or the name; another person's words are where they
were; and in the end the log is whole, and views and counters are a fold of it.
"""

import asyncio
import random
from collections import Counter
from collections.abc import Sequence
from uuid import UUID, uuid4

from api.access import access_log
from api.access.keys import KeyOrder, Keys
from api.access.principals import Principal
from api.commands.handler import Handler, Submission
from api.people.erasure import ErasureWorker
from api.people.store import Persons
from domain.actors import Actor
from domain.people import ErasePerson
from domain.tickets.assignment import AssignTicket, FollowTicket
from domain.tickets.conversation import AddNote
from domain.tickets.opening import OpenTicket
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import utc_now
from eventstore.log import EventStore
from eventstore.personal.vault import Vault
from projections.erasure.eraser import Eraser
from projections.erasure.progress import Erasures
from projections.generations import Generations
from projections.projector.batch import BatchWriter
from projections.views.saved_views import SavedViews, TicketFilter
from scripts.hash_chains import Verification
from scripts.soak.projectors import under_load
from scripts.testbed.child import NEVER, Steps, die_at, ended, in_turn, killed, points_of
from scripts.testbed.harness import ACTOR, connected, require
from scripts.testbed.judging import Check, audited, caught_up, documents_with
from scripts.verify import verify_database

_SETTLED_SECONDS = 1.0
_COMPLETED_SECONDS = 120
_TICKETS = 3

STEPS: Steps = {
    "take": Erasures,
    "_unname": ErasureWorker,
    "destroy": Vault,
    "_renew": Eraser,
    "renew": BatchWriter,
    "_write": BatchWriter,
    "leftovers": Generations,
}
"""What an erasure goes through."""
_TIMES = {"take": 3, "_renew": 2, "renew": 2 * _TICKETS, "_write": 2 * _TICKETS}
"""How often one erasure comes there, if more than once."""
POINTS = points_of(STEPS)


async def kill_erasure(
    url: str, rounds: int, check: Check = audited, points: Sequence[str] = POINTS
) -> Counter[str]:
    """Kill an erasure at one point after the other; the next process completes it."""
    counted: Counter[str] = Counter()
    bystander = f"bystander{uuid4().hex}"
    async with under_load(url, check, "projecting") as database:
        await _person_with_tickets(database, bystander)
        await caught_up(database)
        untouched = await _places(database, bystander)
        for point in in_turn(points, rounds):
            word = f"canary{uuid4().hex}"
            person = await _person_with_tickets(database, word)
            await _mention_outside_the_log(database, word)
            await caught_up(database)
            require(await _places(database, word), "the words are to be there at first")
            nth = random.randint(1, _TIMES.get(point.split()[1], 1))
            await killed(erase_and_die, url, person, point, nth, seconds=_COMPLETED_SECONDS)
            counted["killed"] += 1
            counted["found_begun"] += bool(await Erasures(database).steps(person))
            code = await ended(erase_and_die, url, person, NEVER, 1, seconds=_COMPLETED_SECONDS)
            require(code == 0, f"after {point}, {nth}: the next one ended with {code}")
            left = await _places(database, word)
            require(not left, f"after {point}, {nth}: the words are left in {left}")
            others = await _places(database, bystander)
            require(others == untouched, f"after {point}, {nth}: others' words have changed")
            counted["erased"] += 1
        verification = Verification()
        await verify_database(database, verification)
        require(not verification.finish(), "the log is not whole any more")
    return counted


async def _places(database: Database, word: str) -> set[tuple[str, object]]:
    return {(name, document["_id"]) for name, document in await documents_with(database, word)}


async def _mention_outside_the_log(database: Database, word: str) -> None:
    name = _name(word)
    await Keys(database).make(KeyOrder(principal=name, role="requester"), name)
    await SavedViews(database).save("theirs", TicketFilter(requester=name))
    record: JsonObject = {"at": utc_now(), "principal": {"id": name, "role": "requester"}}
    await database.collection(access_log.COLLECTION).insert_one(record)


def _name(word: str) -> str:
    return f"{word}@example.org"


async def _person_with_tickets(database: Database, word: str) -> UUID:
    """Have a person open tickets, and others write on them; return the person's id."""
    store, name = EventStore(database), _name(word)
    handler, requester = Handler(store), Actor(name, "requester")
    for n in range(_TICKETS):
        ticket = uuid4()
        opening = OpenTicket(subject=f"{word} {n}", requester=name, body=word)
        for actor, command in (
            (requester, opening),
            (ACTOR, AssignTicket(assignee="alice")),
            (ACTOR, AddNote(body=f"about {word}")),
            (ACTOR, FollowTicket(follower=f"other{n}")),
        ):
            await handler.handle(ticket, Submission(command=command, actor=actor))
    return (await store.vault.find(name)).id


async def erase_and_die(url: str, person_id: str, point: str, nth: str) -> None:
    """Erase a person, or complete it, until a point is reached for the nth time; die there."""
    die_at(STEPS, point, nth)
    person = UUID(person_id)
    async with connected(url) as database:
        store = EventStore(database)
        await Erasures(database).prepare()
        admin = Principal("soak", "admin")
        await Persons(database, store).erase(person, ErasePerson(reason="a soak"), admin)
        await ErasureWorker(database, store).reconcile()
        eraser = Eraser(database, store, _SETTLED_SECONDS)
        while not await eraser.complete(person):  # noqa: ASYNC110 it says when to ask again
            await asyncio.sleep(0.2)
