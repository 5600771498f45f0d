"""Which collections are shown: generations of views, and the one pointer that names the active one.

Every view is kept in numbered collections (`ticket_reads_7`). One document names the numbers that
are shown, of read documents, sums and checkpoints together; so a rebuilt set of views takes the
place of another at one instant, for all processes (law L7).

All of this is in a database of its own, `<database>_views`, beside that of the log: it can be
dropped, and is made again by who projects. Each generation says of which log it was folded, and in
which time zones its sums count days, the desk's own first; one of another log, or of other zones
than the desk has by now, is built anew.

    generations
      {_id: "active", numbers: {ticket_reads: 7, dashboard_counters: 7, ...}, shape, log, zones,
                      next, since}
      {_id: "former", numbers, shape, log, zones, drop_after}
                                                     what was active before; null: it is kept
      {_id: "building", numbers, builder, began_at, seen_at}
                                                     one at a time; given up when it shows no life
      {_id: "ended", numbers: {}, what, began_at, ended_at, failure, tickets, events, ...}
                                                     how the last build ended; it names nothing
      {_id: "as_of/<name>", numbers, name, until, by, made_at}
      {numbers, drop_after}                          what was replaced before that

A collection that no document names is dropped by the next who sweeps: what was replaced some time
ago, and what a build has left that was given up. Not at once: a reader may be about to ask it, and
a killed process may have left a transaction open in it. Then the embedded server would wait for its
end, and all other transactions for the drop, for ever.

For those who look by hand, `ticket_reads` and the others are database views of what is active.

Former versions kept all of this beside the log. What they show is shown until a generation has been
built here, and dropped once none of their processes shows life.
"""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from typing import Annotated, Literal, NamedTuple, TypeVar, cast
from uuid import UUID

from pydantic import Strict

from domain.days import UTC_ONLY, Zones
from domain.errors import CasebookError, NotFound, StateConflict
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import (
    Document,
    EssentialUnreadable,
    Reader,
    UnreadableDocument,
    as_document,
    strict_decoder,
)
from eventstore.lease import LeaseLost, is_alive, is_dead, renew
from eventstore.mongo.driver import Session
from eventstore.mongo.errors import DriverError, DuplicateKeyError, describe
from eventstore.mongo.request_batcher import RequestBatcher
from projections.desk_zones import desk_zones
from projections.projector import checkpoints, parked
from projections.projector.checkpoints import Checkpoints, Fenced
from projections.projector.parked import ParkedTickets
from projections.views import indexes, sums, tickets
from projections.views.tickets import SHAPE

_log = logging.getLogger(__name__)
T = TypeVar("T")

COLLECTION = "generations"
DOCUMENTS = (tickets.COLLECTION, parked.COLLECTION, checkpoints.COLLECTION, checkpoints.MEMBERS)
VIEWS = (*DOCUMENTS, *(view.collection for view in sums.VIEWS))
BUILD_LEASE_SECONDS = 10.0
_KNOWN_SECONDS = 1.0
DROP_SECONDS = 75.0
"""How long after it was replaced, or given up, a collection is dropped: longer than any reader has
patience, and than a transaction lasts that a killed process has left open in it.
"""

OF_ANOTHER_LOG = 0
"""The shape that views of another log are taken for: no version writes it, so all build anew."""

_NUMBERED = re.compile(rf"(?:{'|'.join(VIEWS)})_\d+")
OF_FORMER_LAYOUT = re.compile(rf"{COLLECTION}|(?:{'|'.join(VIEWS)})(?:_\d+)?")
"""What collections and database views of a former version are called, beside the log."""

By = Literal["occurred", "recorded"]


class BuildRunning(StateConflict):
    """Another rebuild is at work, or was killed a moment ago."""

    def __init__(self) -> None:
        super().__init__("build_running", "another rebuild of the views is at work")


class BuildLost(CasebookError):
    """A rebuild was taken for dead, as after it was frozen, and what it had built is gone."""

    def __init__(self) -> None:
        super().__init__("build_lost", "the rebuild showed no life for too long and was given up")


class NoFormer(CasebookError):
    """There is nothing to go back to: the former generation has been dropped."""

    def __init__(self) -> None:
        super().__init__("no_former", "there is no former generation to go back to")


class UnknownAsOf(NotFound):
    """No views as of a time have been built under that name, or they were dropped."""

    def __init__(self, name: str) -> None:
        super().__init__("as_of_view_not_found", f"there are no views as of a time named {name!r}")


def views_database(database: str) -> str:
    """Return the name of the database that has the views of another."""
    return f"{database}_views"


@dataclass(frozen=True, slots=True)
class Generation:
    """One set of views: the number of each view's collection, which log they are of, and in which
    time zones they count days.
    """

    numbers: Mapping[str, int]
    shape: int = SHAPE
    log: UUID | None = None
    zones: Annotated[Zones, Strict(False)] = UTC_ONLY

    def of(self, database: Database) -> Database:
        """Return the database as it is with these views: theirs are the collections of that
        name.
        """
        return database.renaming(
            {**self.names, COLLECTION: COLLECTION}, views_database(database.name)
        )

    @property
    def names(self) -> dict[str, str]:
        """Return the real name of each view's collection."""
        return {view: f"{view}_{number}" for view, number in self.numbers.items()}


FIRST = Generation(dict.fromkeys(VIEWS, 1))
_NONE_YET = Generation({}, OF_ANOTHER_LOG)


@dataclass(frozen=True, slots=True)
class FormerLayout(Generation):
    """What a former version shows, beside the log. Its shape is a former one, too."""

    def of(self, database: Database) -> Database:
        return database.renaming(self.names)


@dataclass(frozen=True, slots=True)
class AsOf:
    """Views as of a time: what happened, or was recorded, until then."""

    name: str
    until: datetime
    by: By
    made_at: datetime
    generation: Generation = field(repr=False)


async def prepare(views: Database) -> None:
    """Make a generation's collections and indexes and its checkpoints. Safe to repeat."""
    await views.spread(tickets.COLLECTION)  # sums, leases and the like are few
    await indexes.make(views)
    for view in sums.of(views):
        await view.prepare()
    await ParkedTickets(views).prepare()
    await Checkpoints(views).prepare()


class Build(NamedTuple):
    """A build that is at work. `done` and `total` count events of its phase.

    `began_at`: long ago where a former version has not kept it.
    """

    seen_at: datetime
    began_at: datetime = datetime(1970, 1, 1, tzinfo=UTC)
    phase: str = "wait"
    done: int = 0
    total: int = 0


class Ended(NamedTuple):
    """How the last build ended. `what` it was, null if that is not known: it was killed; `failure`:
    why nothing came of it; `seconds`: how long each phase took; `fenced_seconds`: for how long no
    projector could write to what is shown.
    """

    began_at: datetime
    ended_at: datetime
    what: str | None = None
    failure: str | None = None
    tickets: int = 0
    events: int = 0
    parked: int = 0
    checked_documents: int = 0
    checked_numbers: int = 0
    seconds: Mapping[str, float] = {}
    fenced_seconds: float = 0.0


class Generations:
    """The generations of one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._namespace = views_database(database.name)
        self._views = database.renaming({COLLECTION: COLLECTION}, self._namespace)
        self._documents = self._views.collection(COLLECTION)
        # Where former versions kept them.
        self._beside_log = database.renaming({}).collection(COLLECTION)
        self._log: UUID | None = None  # for good: a process whose log is replaced projects nothing
        self._reader = Reader(database.unreadable, COLLECTION, generation_of)
        self._as_of = Reader(database.unreadable, COLLECTION, _as_of)
        self._build = Reader(database.unreadable, COLLECTION, _BUILD)
        self._ended = Reader(database.unreadable, COLLECTION, _ENDED)
        self._known: Generation | None = None
        self._seen_at = 0.0
        self._still = RequestBatcher(self._active_for)

    async def prepare(self) -> Generation:
        """Make the first generation, if there is none; return the active one. Safe to repeat."""
        if await self._pointed() is None:
            log = (await self._database.identity.ensure()).log
            zones = await desk_zones(self._database) or UTC_ONLY
            first = replace(FIRST, log=log, zones=zones)
            await prepare(first.of(self._database))
            now = await self._database.server_time()
            with suppress(DuplicateKeyError):  # another process was quicker
                shown = {"$set": {**as_document(first, None), "since": now}, "$max": {"next": 2}}
                which = {"_id": "active", "numbers": _NONE_YET.numbers}
                await self._documents.update_one(which, shown, upsert=True)
        return await self.active()

    async def _pointed(
        self, session: Session | None = None, within_seconds: float = 0.0
    ) -> Generation | None:
        """Return what is to be shown; None if there is nothing yet. Raises UnreadableDocument."""
        active = {"_id": "active"}
        if session is None:
            there = await self._views.small(COLLECTION, active, within_seconds=within_seconds)
            document = next(iter(there), None)
        else:
            document = await self._documents.find_one(active, session=session)
        if document is not None and document.get("numbers") != _NONE_YET.numbers:
            return await self._read(document)
        if (document := await self._beside_log.find_one(active, session=session)) is None:
            return None
        found = self._reader.one(document)
        return FormerLayout(found.numbers, found.shape)

    async def _read(self, document: Document) -> Generation:
        found = self._reader.one(document)
        if self._log is None and (identity := await self._database.identity.read()) is not None:
            self._log = identity.log
        return found if found.log == self._log else replace(found, shape=OF_ANOTHER_LOG)

    # --- asking ----------------------------------------------------------------------------------

    async def active(self, *, within_seconds: float = 0.0) -> Generation:
        """Return the generation that is shown now, or within some seconds from now.

        Raises EssentialUnreadable.
        """
        try:
            self._known = await self._pointed(within_seconds=within_seconds) or FIRST
        except UnreadableDocument as error:
            raise EssentialUnreadable(COLLECTION, "active") from error
        self._seen_at = asyncio.get_running_loop().time()
        return self._known

    async def _active_for(self, askers: Collection[None]) -> dict[None, Generation]:
        return dict.fromkeys(askers, await self.active())

    async def shown(self) -> Database:
        """Return the database as it is with the views that are shown now."""
        return (await self.active()).of(self._database)

    async def known(self) -> Generation:
        """Return the generation that was last seen to be shown, a second ago at most."""
        clock = asyncio.get_running_loop().time
        if self._known is None or clock() - self._seen_at > _KNOWN_SECONDS:
            return await self.active()
        return self._known

    async def ask(self, question: Callable[[Database], Awaitable[T]]) -> T:
        """Ask the database as it is with the active generation, as `ask_generation` does."""
        return await self.ask_generation(lambda asked: question(asked.of(self._database)))

    async def ask_generation(self, question: Callable[[Generation], Awaitable[T]]) -> T:
        """Ask the active generation; again if another has taken its place meanwhile.

        So no answer is of what is no longer shown, and looking costs next to no time of its own:
        all who ask at once share one look.
        """
        while True:
            asked = self._known or await self.active()
            answer, active = await asyncio.gather(
                question(asked), self._still.get(None), return_exceptions=True
            )
            if isinstance(active, BaseException):
                raise active
            if active == asked:
                if isinstance(answer, BaseException):
                    raise answer
                return answer

    async def as_of(self, name: str) -> AsOf:
        """Return views as of a time. Raises UnknownAsOf, UnreadableDocument."""
        document = await self._documents.find_one({"_id": f"as_of/{name}"})
        if document is None:
            raise UnknownAsOf(name)
        return self._as_of.one(document)

    async def all_as_of(self) -> list[AsOf]:
        """Return all views as of a time that can be read, by name."""
        documents = await self._documents.find().sort("_id", 1).to_list()
        return self._as_of.each(d for d in documents if str(d["_id"]).startswith("as_of/"))

    async def drop_as_of(self, name: str) -> None:
        """Forget views as of a time, and have them dropped soon. Raises UnknownAsOf."""
        if not await self._retire({"_id": f"as_of/{name}"}):
            raise UnknownAsOf(name)

    # --- building --------------------------------------------------------------------------------

    async def begin(self, builder: str) -> Generation:
        """Begin to build new collections for all views. Raises BuildRunning.

        A build that shows no life is given up first. Keep it alive by `beat`.
        """
        await self.give_up_the_dead()
        log = (await self._database.identity.ensure()).log
        # As long as what a former version shows is shown, there is nothing that counts.
        none_yet = {"$setOnInsert": {**as_document(_NONE_YET, None), "next": 2}}
        await self._documents.update_one({"_id": "active"}, none_yet, upsert=True)
        counted = await self._documents.find_one_and_update(
            {"_id": "active"}, {"$inc": {"next": 1}}
        )
        if counted is None:
            raise AssertionError("there is no pointer")
        number = cast("int", counted["next"])
        zones = await desk_zones(self._database) or (await self.active()).zones
        generation = Generation(dict.fromkeys(VIEWS, number), log=log, zones=zones)
        now = await self._database.server_time()
        try:
            await self._put(generation, _id="building", builder=builder, began_at=now, seen_at=now)
        except DuplicateKeyError as error:
            raise BuildRunning from error
        return generation

    async def beat(self, builder: str, phase: str, done: int, total: int) -> None:
        """Show that a build is alive, and how far it is. Raises BuildLost."""
        far: JsonObject = {"phase": phase, "done": done, "total": total}
        try:
            await renew(self._documents, {"_id": "building", "builder": builder}, far)
        except LeaseLost as lost:
            raise BuildLost from lost

    async def give_up(self, builder: str) -> None:
        """End a build; what it has made is dropped a minute later."""
        await self._retire({"_id": "building", "builder": builder})

    async def keep_as_of(self, builder: str, name: str, until: datetime, by: By) -> None:
        """Let what was built be views as of a time, in the place of what had the name.

        Raises BuildLost.
        """
        now = await self._database.server_time()
        id_ = f"as_of/{name}"

        async def work(session: Session) -> None:
            built = await self._end_build(builder, session)
            await self._retire_in({"_id": id_}, now, session)
            await self._put(built, session, _id=id_, name=name, until=until, by=by, made_at=now)

        await self._database.in_transaction(work)

    async def switch(self, builder: str, projector: str, *, keep_former: bool) -> Generation:
        """Let what was built be what is shown, from one instant on; return what is shown then.

        On condition that the build is alive, and that `projector` holds all partitions of what has
        been shown: so nobody writes there any more. Raises BuildLost, Fenced.
        """

        async def take(session: Session, now: datetime) -> Generation:
            built = await self._end_build(builder, session)
            await self._retire_in({"_id": "former"}, now, session)
            return built

        return await self._point_to(take, projector, keep_former=keep_former)

    async def go_back(self, to: Generation, projector: str) -> Generation:
        """Show the former generation again, and what is shown now no more: it is kept as former.

        Raises NoFormer, if another is by now; Fenced.
        """

        async def take(session: Session, _now: datetime) -> Generation:
            if await self._take({"_id": "former"}, session) != to:
                raise NoFormer
            return to

        return await self._point_to(take, projector, keep_former=True)

    async def _point_to(
        self,
        take: Callable[[Session, datetime], Awaitable[Generation]],
        projector: str,
        *,
        keep_former: bool,
    ) -> Generation:
        """Show what `take` returns, and keep what was shown as the former, for a while at least."""
        now = await self._database.server_time()
        drop_after = None if keep_former else now + timedelta(seconds=DROP_SECONDS)

        async def work(session: Session) -> Generation:
            former, to = await self._pointed(session), await take(session, now)
            if former is None:
                raise AssertionError("there is no generation")
            if not await Checkpoints(former.of(self._database)).hold_all(projector, session):
                raise Fenced
            if not isinstance(former, FormerLayout):
                await self._put(former, session, _id="former", drop_after=drop_after)
            change = {"$set": {**as_document(to, None), "since": now}}
            await self._documents.update_one({"_id": "active"}, change, session=session)
            return to

        shown = await self._database.in_transaction(work)
        await self._show_by_hand()
        return shown

    async def former(self) -> Generation:
        """Return what was shown before, if it is still there. Raises NoFormer."""
        document = await self._documents.find_one({"_id": "former"})
        if document is None:
            raise NoFormer
        return await self._read(document)

    async def keep_former(self, drop_after: datetime | None = None) -> datetime | None:
        """Have the former generation not be dropped, or not before a time; return what was said
        before. Raises NoFormer.
        """
        before = await self._documents.find_one_and_update(
            {"_id": "former"}, {"$set": {"drop_after": drop_after}}
        )
        if before is None:
            raise NoFormer
        return cast("datetime | None", before.get("drop_after"))

    async def discredit_former_layout(self) -> None:
        """Have what a former version shows be taken for views of another log: it says of none."""
        change = {"$set": {"shape": OF_ANOTHER_LOG}}
        await self._beside_log.update_many({}, change)

    async def _put(
        self, generation: Generation, session: Session | None = None, **about: object
    ) -> None:
        document = {**as_document(generation, None), **about}
        await self._documents.insert_one(document, session=session)

    async def _take(self, which: JsonObject, session: Session) -> Generation | None:
        """Remove a document; return the generation that it named, None if there is none."""
        found = await self._documents.find_one(which, session=session)
        if found is None:
            return None
        await self._documents.delete_one({"_id": found["_id"]}, session=session)
        return await self._read(found)

    async def _end_build(self, builder: str, session: Session) -> Generation:
        built = await self._take({"_id": "building", "builder": builder}, session)
        if built is None:
            raise BuildLost
        return built

    async def _retire(self, which: JsonObject) -> bool:
        """Have what a document names be dropped soon; return whether there is one."""
        now = await self._database.server_time()
        return await self._database.in_transaction(
            lambda session: self._retire_in(which, now, session)
        )

    async def _retire_in(self, which: JsonObject, now: datetime, session: Session) -> bool:
        generation = await self._take(which, session)
        if generation is not None:
            drop_after = now + timedelta(seconds=DROP_SECONDS)
            await self._put(generation, session, drop_after=drop_after)
        return generation is not None

    # --- whatever holds a ticket -----------------------------------------------------------------

    async def holding_tickets(self) -> list[Generation]:
        """Return all generations that hold read documents, shown or not.

        Raises UnreadableDocument if one cannot be read: it may be one of them.
        """
        documents = await self._documents.find().to_list()
        found = [await self._read(document) for document in documents]
        return [generation for generation in found if tickets.COLLECTION in generation.numbers]

    async def build(self) -> Build | None:
        """Return the build that is at work, as it last showed itself; None if none is."""
        building = self._documents.find({"_id": "building"})
        return next(iter(self._build.each(await building.to_list())), None)

    async def ended(self) -> Ended | None:
        """Return how the last build ended; None before the first."""
        ended = self._documents.find({"_id": "ended"})
        return next(iter(self._ended.each(await ended.to_list())), None)

    async def keep_ended(self, ended: Ended) -> None:
        """Let it be known how a build ended, in the place of the one before."""
        # As a generation of nothing: former versions read all that is here as generations.
        nothing = Generation({}, log=(await self._database.identity.ensure()).log)
        document = {**as_document(nothing, None), **ended._asdict()}
        await self._documents.update_one({"_id": "ended"}, {"$set": document}, upsert=True)

    async def build_began(self) -> datetime | None:
        """Return when the build that is at work began; None if none is.

        Raises UnreadableDocument.
        """
        building = await self._documents.find_one({"_id": "building"})
        return None if building is None else self._build.one(building).began_at

    async def drop_foreign(self) -> None:
        """Have what another version has folded, or of another log, and nobody is shown, be dropped
        soon.
        """
        log = (await self._database.identity.ensure()).log
        foreign: JsonObject = {
            "$or": [{"shape": {"$ne": SHAPE}}, {"log": {"$ne": log}}],
            "_id": {"$nin": ["active", "building"]},
            "drop_after": None,
        }
        while await self._documents.find_one(foreign) is not None:
            await self._retire(foreign)

    async def leftovers(self) -> bool:
        """Return whether read documents are there that are of no generation, or soon of none."""
        left = [*await self._unnamed(), *await self.of_former_layout()]
        return any(name.startswith(tickets.COLLECTION) for name in left)

    # --- sweeping --------------------------------------------------------------------------------

    async def sweep(self) -> None:
        """Drop what no longer shows, and what was begun and never finished; show what is active by
        the views' own names. Safe at any time.

        Raises UnreadableDocument: what cannot be read may name anything, and nothing is dropped.
        """
        await self.give_up_the_dead()
        now = await self._database.server_time()
        gone: JsonObject = {"drop_after": {"$lt": now}}
        await self._documents.delete_many(gone)
        for name in await self._unnamed():
            await self._database.drop(self._namespace, name)
        await self._drop_former_layout(now)
        await self._show_by_hand()

    async def of_former_layout(self) -> list[str]:
        """Return the names of what a former version has left, or uses."""
        there = await self._database.collections(self._database.name)
        return [name for name in there if OF_FORMER_LAYOUT.fullmatch(name)]

    async def _drop_former_layout(self, now: datetime) -> None:
        """Drop what former versions kept beside the log, once nobody can be asking it."""
        if not (left := await self.of_former_layout()):
            return
        active = await self._documents.find_one({"_id": "active"})
        since = None if active is None else cast("datetime | None", active.get("since"))
        if since is None or is_alive(since, now, DROP_SECONDS):
            return
        if not await self._database.identity.other_layouts_used(DROP_SECONDS):
            for name in left:
                await self._database.drop(self._database.name, name)

    async def _unnamed(self) -> list[str]:
        """Return the collections of views that no document names."""
        # What is there comes first: what is begun after this is not in it.
        there = await self._database.collections(self._namespace)

        async def read(session: Session) -> set[str]:
            documents = await self._documents.find({}, session=session).to_list()
            found = [self._reader.one(document) for document in documents]
            if not any(d["_id"] == "active" and d["numbers"] for d in documents):
                found.append(FIRST)  # `prepare` may be about to name it
            return {name for each in found for name in each.names.values()}

        named = await self._database.in_transaction(read, snapshot=True)
        return sorted(name for name in there if _NUMBERED.fullmatch(name) and name not in named)

    async def give_up_the_dead(self, within_seconds: float = 0.0) -> None:
        """Give up a build that shows no life, and end what its process has left open.

        Some servers let no stream go on behind a transaction that is open: until it ended, what is
        shown would be behind.
        """
        which = {"_id": "building"}
        found = await self._views.small(COLLECTION, which, within_seconds=within_seconds)
        if not found:
            return
        [building] = found
        seen_at, began_at, *_ = self._build.one(building)
        about = self._database, self._documents, "building", seen_at, BUILD_LEASE_SECONDS
        if await is_dead(*about):
            builder = building["builder"]
            if await self._retire({"_id": "building", "builder": builder, "seen_at": seen_at}):
                failure = "its process was killed, or stood still for too long"
                await self.keep_ended(Ended(began_at, seen_at, failure=failure))
            views = self._reader.one(building).of(self._database)
            for member in (await Checkpoints(views).read()).members.values():
                if member.session is not None:
                    await self._database.kill_session(member.session)

    async def _show_by_hand(self) -> None:
        """Have the views' own names show what is active, for those who look by hand."""
        try:
            active = await self.active()
            there = await self._database.collections(self._namespace)
            for view, collection in active.names.items():
                if there.get(view) != collection and not isinstance(active, FormerLayout):
                    await self._database.show(self._namespace, view, collection)
        except DriverError as error:  # as where one may not, or two do it at once
            _log.info("the views cannot be shown by name: %s", describe(error))


_GENERATION = strict_decoder(Generation, id_field=None, complete=True)
_AS_OF = strict_decoder(AsOf, id_field=None)
_BUILD = strict_decoder(Build, id_field=None)
_ENDED = strict_decoder(Ended, id_field=None)


def generation_of(document: Document) -> Generation:
    """Read what a document names; one of a former version does not say of which log that is, or
    counts days of UTC.
    """
    return _GENERATION({"log": None, "zones": UTC_ONLY, **document})


def _as_of(document: Document) -> AsOf:
    return _AS_OF({**document, "generation": generation_of(document)})
