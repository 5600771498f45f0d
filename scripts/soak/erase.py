"""Persons erased under load, and whoever erases them killed between any two steps.

In each round somebody has tickets, with words that stand nowhere else, an API key, a saved view and
a line in the access log. One process erases them, and is killed; the next completes it. Then no
document of either database has those words or their name; somebody else's words are where they
were; and in the end the log is whole, and views and counters are a fold of it.
"""

import asyncio
import random
import signal
from collections import Counter
from collections.abc import Sequence
from uuid import UUID, uuid4

from api.access import access_log
from api.access.keys import KeyOrder, Keys
from api.access.rights import Principal
from api.commands.handler import Handler, Submission
from api.people.erasure import Forgetting
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
from projections.erasure.progress import Erasures
from projections.erasure.views import Eraser
from projections.generations import Generations
from projections.projector.batch import BatchWriter
from projections.views.saved_views import SavedViews, TicketFilter
from scripts.console import with_progress
from scripts.soak.views import die_at, under_load
from scripts.testbed.judging import Check, audited, caught_up, documents_with
from scripts.testbed.promises import ACTOR, code_of, process, require
from scripts.verification import Verification
from scripts.verify import verify_database

_SETTLED_SECONDS = 1.0
_COMPLETED_SECONDS = 120
_TICKETS = 3

STEPS: tuple[tuple[object, str], ...] = (
    (Erasures, "take"),
    (Forgetting, "_unname"),
    (Vault, "destroy"),
    (Eraser, "_renew"),
    (BatchWriter, "renew"),
    (BatchWriter, "_write"),
    (Generations, "leftovers"),
)
"""What an erasure goes through; it can be killed before and after each."""
_TIMES = {"take": 3, "_renew": 2, "renew": 2 * _TICKETS, "_write": 2 * _TICKETS}
"""How often one erasure comes there, if more than once."""
POINTS = tuple(f"{when} {step}" for _, step in STEPS for when in ("before", "after"))


async def kill_erasure(
    url: str, rounds: int, check: Check = audited, points: Sequence[str] = POINTS
) -> Counter[str]:
    """Kill who erases at one point after the other; the next one goes on."""
    counted: Counter[str] = Counter()
    bystander = f"bystander{uuid4().hex}"
    async with (
        under_load(url, check) as database,
        process("scripts.soak", "_keep", url),
    ):
        store = EventStore(database)
        await _somebody(store, bystander)
        await caught_up(database)
        untouched = _places(await documents_with(database, bystander))
        for round_ in with_progress(range(rounds), "killing", "rounds"):
            point = points[round_ % len(points)]
            word = f"canary{uuid4().hex}"
            person = await _somebody(store, word)
            await _known_beside_the_log(database, word)
            await caught_up(database)
            require(await documents_with(database, word), "the words are to be there at first")
            nth = random.randint(1, _TIMES.get(point.split()[1], 1))  # noqa: S311
            killed = await _erase(url, person, point, nth)
            require(killed == -signal.SIGKILL, f"{point}, {nth}: it ended with {killed}")
            counted["killed"] += 1
            if await Erasures(database).steps(person):
                counted["found_begun"] += 1
            done = await _erase(url, person, "never", 1)
            require(done == 0, f"after {point}, {nth}: the next one ended with {done}")
            left = [name for name, _ in await documents_with(database, word)]
            require(not left, f"after {point}, {nth}: the words are left in {left}")
            others = _places(await documents_with(database, bystander))
            require(others == untouched, f"after {point}, {nth}: others' words have changed")
            counted["erased"] += 1
        verification = Verification()
        await verify_database(database, verification)
        require(not verification.finish(), "the log is not whole any more")
    return counted


def _places(found: Sequence[tuple[str, JsonObject]]) -> set[tuple[str, object]]:
    return {(collection, document["_id"]) for collection, document in found}


async def _known_beside_the_log(database: Database, word: str) -> None:
    name = _name(word)
    await Keys(database).make(KeyOrder(principal=name, role="requester"), name)
    await SavedViews(database).save("theirs", TicketFilter(requester=name))
    record: JsonObject = {"at": utc_now(), "principal": {"id": name, "role": "requester"}}
    await database.collection(access_log.COLLECTION).insert_one(record)


def _name(word: str) -> str:
    return f"{word}@example.org"


async def _somebody(store: EventStore, word: str) -> UUID:
    """Have somebody say something on some tickets, and others on theirs; return the person."""
    handler, name = Handler(store), _name(word)
    herself = Actor(name, "requester")
    for n in range(_TICKETS):
        ticket = uuid4()
        opening = OpenTicket(subject=f"{word} {n}", requester=name, body=word)
        for actor, command in (
            (herself, opening),
            (ACTOR, AssignTicket(assignee="alice")),
            (ACTOR, AddNote(body=f"about {word}")),
            (ACTOR, FollowTicket(follower=f"other{n}")),
        ):
            await handler.handle(ticket, Submission(command=command, actor=actor))
    return (await store.vault.find(name)).id


async def _erase(url: str, person: UUID, point: str, nth: int) -> int | None:
    words = ("scripts.soak", "_erase", url, str(person), point, str(nth))
    return await code_of(*words, seconds=_COMPLETED_SECONDS)


async def erase_and_die(url: str, person_id: str, point: str, nth: str) -> int:
    """Erase somebody, or complete it, until a point is reached for the nth time; die there."""
    die_at(STEPS, point, nth)
    person = UUID(person_id)
    database = Database(url)
    store = EventStore(database)
    await Erasures(database).prepare()
    admin = Principal("soak", "admin")
    await Persons(database, store).erase(person, ErasePerson(reason="a soak"), admin)
    await Forgetting(database, store).reconcile()
    eraser = Eraser(database, store, _SETTLED_SECONDS)
    while not await eraser.complete(person):  # noqa: ASYNC110 it says when to ask again
        await asyncio.sleep(0.2)
    await database.close()
    return 0
