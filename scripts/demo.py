"""Set up a desk, and load a small real incident log into it that ends yesterday.

The log's times are shifted as a whole; what people say in it is made up. Three people can sign in.
"""

import argparse
import shlex
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime, time, timedelta
from pathlib import Path
from typing import NamedTuple
from uuid import UUID

import httpx

from api.access.keys import KeyOrder, Keys, keep_in_file
from api.access.principals import Unauthenticated
from api.access.sign_in_links import SignInLinks
from api.commands.handler import Submission, VersionMismatch, new_ticket_id
from api.desk.store import Desks, SetUp
from api.settings import Settings
from api.timekeeper import timekeeper
from domain.actors import Actor, PrincipalRole
from domain.desk import Desk
from domain.errors import Refusal
from domain.tickets import encode
from domain.tickets.command import Context, decide
from eventstore.event_document import EMPTY, Envelope, Head, Metadata
from eventstore.failures import VersionConflict
from eventstore.key_files import names_for
from eventstore.log import EventStore
from projections.generations import Generations
from projections.views import tickets
from projections.views.tickets import TicketRead
from scripts.catch_up import caught_up, projecting
from scripts.cli import address, database, is_read_here, start, with_progress, writing
from scripts.demo_story import desk_of, retold
from scripts.import_formats import Act
from scripts.import_formats.tally import Tally
from scripts.import_log import FORMATS, read

_SAMPLE = Path(__file__).parent / "sample" / "servicenow.csv"
_LAST_DAY = datetime(2016, 4, 20, tzinfo=UTC)
"""Of the log, as far as it is told: of what came later it has too little for a busy desk."""
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)
_LOADER = Actor("demo", "system")
STORY = new_ticket_id(_LOADER, "INC0002138")
"""A ticket that has been through much, and is not solved."""


class _Person(NamedTuple):
    """Someone to sign in as."""

    principal: str
    role: PrincipalRole


PEOPLE = (
    _Person("Supervisor 1", "supervisor"),
    _Person("Agent 10", "agent"),
    _Person("Requester 4", "requester"),
)


class Loaded(NamedTuple):
    """What a run has come to: tickets that it added, and that were there; by how much the log is
    moved.
    """

    added: int
    there: int
    shift: timedelta


async def main(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    lives = sample()
    desk = desk_of(lives.values())
    async with database(settings) as db:
        store = EventStore(db)
        await store.prepare()
        await Generations(db).prepare()
        is_set_up = await set_up(Desks(db), desk)
        async with projecting(db, store):
            loaded = await load(store, lives, desk, await store.clock.time())
            await caught_up(db, store, "projecting")
        keys = Keys(db)
        files = [await _keep_key(keys, settings.data_dir, db.name, each) for each in PEOPLE]
        links = SignInLinks(db, keys)
        codes = [await links.make(*each) for each in PEOPLE] if is_read_here(settings) else []
    _show(settings, files, codes)
    print(
        f"{loaded.added} tickets were loaded, {loaded.there} were there. They are incidents of "
        f"2016, moved by {loaded.shift.days} days as a whole: they end on "
        f"{(_LAST_DAY + loaded.shift).date()}.\nSubjects and texts are made up, and persons are "
        "shown as roles and numbers: see scripts/sample/README.md."
    )
    if not is_set_up:
        print("The desk was set up already and stays so: it lacks the demo's groups and promises.")
    return 0


def _show(settings: Settings, files: Sequence[Path], codes: Sequence[str]) -> None:
    """Print where the console is, who can sign in, by links if there are codes of some, and what to
    type.
    """
    where = address(settings.host, settings.port)
    if problem := _problem(where, files[0].read_text().strip()):
        print(problem)
    ways = [f"{where}/#{code}" for code in codes] or files
    print(
        "Open one of these links. Each signs you in, once:"
        if codes
        else f"Open {where}/ with a key:"
    )
    for person, way in zip(PEOPLE, ways, strict=True):
        print(f"  {person.principal:<12} {way}")
    print("Or ask for what is not solved, and for a ticket's story:")
    key = f'"Authorization: Bearer $(cat {shlex.quote(str(files[0]))})"'
    for asked in ("tickets?solved=false&sort=opened_at", f"tickets/{STORY}/timeline"):
        print(f"  curl -s -H {key} '{where}/{asked}'")


def sample() -> dict[UUID, list[Act]]:
    """Return what happens to each ticket of the sample, told in words, as far as it is told."""
    histories = read(FORMATS["servicenow"], _SAMPLE, Tally())
    lives = {new_ticket_id(_LOADER, each.number): retold(each) for each in histories}
    end = _LAST_DAY + timedelta(days=1)
    told = {ticket_id: [act for act in acts if act.at < end] for ticket_id, acts in lives.items()}
    return {ticket_id: acts for ticket_id, acts in told.items() if acts}


async def set_up(desks: Desks, desk: Desk) -> bool:
    """Set the desk up, unless it is set up already; say whether it is as the demo wants it."""
    with suppress(VersionMismatch):
        await desks.replace(desk, _LOADER, 0)
    return (await desks.read()).desk == desk


async def load(
    store: EventStore, lives: Mapping[UUID, Sequence[Act]], desk: Desk, now: datetime
) -> Loaded:
    """Bring about the tickets that are not there yet, so that they end on the day before `now`, or
    with those that are there.
    """
    there = {each: event for each in lives for event in await store.load(each, limit=1)}
    shift = datetime.combine(now, time(), UTC) - timedelta(days=1) - _LAST_DAY
    for ticket_id, opening in there.items():
        shift = opening.occurred_at - lives[ticket_id][0].at
    added = 0
    # In the order of their opening, which is that of their numbers.
    missing = sorted(lives.keys() - there.keys(), key=lambda each: lives[each][0].at)
    for ticket_id in with_progress(missing, "loading", "tickets"):
        life = _Life(store, ticket_id, desk)
        for act in lives[ticket_id]:
            await life.add(act._replace(at=act.at + shift))
        await life.pass_until(_LAST_DAY + shift + timedelta(days=1, milliseconds=-1))
        with suppress(VersionConflict):  # another run was first
            await store.append(life.events)
            added += 1
    return Loaded(added, len(there), shift)


class _Life:
    """A ticket's events, decided one by one, with what the timekeeper does in between.

    They are appended together: a ticket of which half is there would be timed and closed by the
    timekeeper of a running server, as one that nobody works on.
    """

    def __init__(self, store: EventStore, ticket_id: UUID, desk: Desk) -> None:
        self._store = store
        self._ticket_id = ticket_id
        self._set_up = SetUp(0, desk, _LAST_DAY, _LOADER, closing_since=_LONG_AGO)
        self._read: TicketRead | None = None
        self._readable: list[Envelope] = []
        self.events: list[Envelope] = []

    async def add(self, act: Act) -> None:
        """Add what follows from an act, and before it what was due by then."""
        await self.pass_until(act.at)
        key = f"demo:{len(self.events)}"
        await self._decide(Submission(command=act.command, actor=act.actor, key=key), act.at)

    async def pass_until(self, now: datetime) -> None:
        """Add what the timekeeper does by a time."""
        while self._read is not None and (due := timekeeper.due(self._read, self._set_up, now)):
            act = timekeeper.submission(due, self._read, self._readable)
            await self._decide(act, max(due.at, self._read.updated_at))

    async def _decide(self, submission: Submission, at: datetime) -> None:
        ticket = None if self._read is None else self._read.ticket
        actor, desk = submission.actor, self._set_up.desk
        needs_number = submission.command.needs_number(ticket, None)
        context = Context(
            now=at,
            actor=actor,
            ticket_id=self._ticket_id,
            desk=desk,
            number=await self._store.numbers.take() if needs_number else None,
        )
        try:
            decision = decide(ticket, submission.command, context)
        except Refusal:
            return  # as the log has it: for example moved out of the group that it is assigned in
        about = Metadata(actor, submission.ref(), None, submission.causation_id)
        data = [
            encode(event, None if ticket is None else ticket.requester) for event in decision.events
        ]
        head = Head(self.events[-1].version, self.events[-1].hash) if self.events else EMPTY
        now = await self._store.clock.time()
        sealed = await self._store.chain(self._ticket_id, head, data, about, at, now)
        self.events += sealed
        for envelope, event in zip(sealed, data, strict=True):
            readable = envelope._replace(data=event.data, metadata=about, sealed=())
            self._readable.append(readable)
            self._read = tickets.apply(self._read, readable)


async def _keep_key(keys: Keys, folder: Path, database: str, person: _Person) -> Path:
    """Have a person's key in a file, and return which: one that is there, if its key is good.

    Raises UsageError if it cannot be kept.
    """
    path = folder / f"demo-{person.role}-key"
    with writing(path):
        for name in names_for(path, database):
            if not name.exists():
                break
            with suppress(UnicodeDecodeError, Unauthenticated):
                await keys.principal(name.read_text().strip())
                return name
        order = KeyOrder(principal=person.principal, role=person.role)
        _, text = await keys.make(order, "make demo")
        return keep_in_file(text, path, database)


def _problem(where: str, key: str) -> str | None:
    """Say what keeps people from signing in there: what answers must know the demo's keys."""
    try:
        answer = httpx.get(f"{where}/me", headers={"Authorization": f"Bearer {key}"}, timeout=5)
    except httpx.TransportError:
        return "The server is not running: start it with `make run`."
    if answer.is_success:
        return None
    return (
        f"What answers at {where} is not this desk's server ({answer.status_code}): stop it, or "
        "set CASEBOOK_PORT, and `make run`."
    )


if __name__ == "__main__":
    start("demo", main)
