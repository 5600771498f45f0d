"""How new what is shown is, and waiting until it is new enough (law L9).

A command is answered once the views show it if it says `Prefer: wait=2`; that never makes it fail:
it has been done, and when time is up its answer does not say that it was waited for. A list or
dashboard with `after=<ticket>@<version>` shows that version, or is refused; and each says in the
header `Casebook-Views-Age` how many seconds old it is. With `as_of_view=<name>` it shows views that
were built as of a time instead, which the header `Casebook-Views-As-Of` then tells.

All requests of a process that wait share one question: the versions of all awaited tickets are
asked for together, some times a second.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import date, datetime
from typing import Annotated, NamedTuple, TypeVar, cast
from uuid import UUID

from pydantic import Field

from api.http.preferences import WAIT_UNASKED_SECONDS, wait_seconds
from api.model import ApiModel
from domain import calendars, days
from domain.days import Zones
from domain.errors import Refusal, Unacceptable
from domain.values import JsonObject, at_most
from eventstore.cached_value import CachedValue
from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.failures import StoreError
from eventstore.mongo.errors import time_limit, translate_driver_errors
from eventstore.mongo.request_batcher import RequestBatcher
from projections.generations import Generation, Generations
from projections.projector import health
from projections.projector.checkpoints import Checkpoints
from projections.views import tickets
from projections.views.dashboard_counters import Counters
from projections.views.saved_views import ViewName

T = TypeVar("T")

AGE_HEADER = "Casebook-Views-Age"
AS_OF_HEADER = "Casebook-Views-As-Of"
_LOOK_SECONDS = 0.02
_AGE_KEPT_SECONDS = 0.25
_MOST_AWAITED = 20
_AFTER = re.compile(r"((?:-?[0-9a-fA-F]){32})@([1-9][0-9]{0,9})")


class FreshnessQuery(ApiModel):
    """How new the answer must be. To be extended by what is asked."""

    after: Annotated[list[str], *at_most(_MOST_AWAITED), Field(default_factory=list)]
    """`<ticket_id>@<version>`, of a command's answer: show at least that version. 412 if the views
    do not get there in time. May be repeated.
    """
    as_of_view: ViewName | None = None
    """Views that were built as of a time under this name (`casebook replay --until`), instead of
    those of now.
    """

    def awaited(self) -> dict[UUID, int]:
        """Return the tickets of `after`, and the version of each. Raises Unacceptable."""
        awaited: dict[UUID, int] = {}
        for each in self.after:
            named = _AFTER.fullmatch(each)
            if named is None:
                raise Unacceptable(
                    "bad_after",
                    "after must be <ticket_id>@<version>, as a command's answer tells them",
                )
            ticket_id, version = UUID(named[1]), int(named[2])
            awaited[ticket_id] = max(version, awaited.get(ticket_id, 0))
        return awaited


class ViewsBehind(Refusal):
    """A list was asked to show a command that the views do not show in time."""

    kind = "precondition_failed"
    retry_after_seconds = 1

    def __init__(self) -> None:
        super().__init__(
            "views_behind", "the views do not show what was asked for with `after` yet; try again"
        )


class SumsOfFormerVersion(Refusal):
    """A dashboard was asked for, whose sums a former version has kept in another form, or are of
    another log: for example just after an upgrade, or a restore.
    """

    kind = "unavailable"
    retry_after_seconds = 5

    def __init__(self) -> None:
        super().__init__(
            "sums_of_former_version",
            "the sums that are shown were kept by a former version of the server, or before a "
            "restore, and are built anew; those as of a time are to be, by "
            "`casebook replay --until`",
        )


class NoSuchDays(Unacceptable):
    """Days were asked for in a time zone by whose days nothing is counted: for example one that the
    desk does not list, or has listed a moment ago.
    """

    pointer = "query tz"

    def __init__(self, zones: Zones) -> None:
        super().__init__(
            "time_zone_not_counted",
            f"days are counted in {', '.join(zones)}; another zone is put into the desk's "
            "`other_time_zones`, and can be asked for once the views have been built anew",
        )


class TimeZoneNotKnown(Refusal):
    """Days are counted in a zone that the rules of this process do not have: for example while
    processes of two versions run.
    """

    kind = "unavailable"
    retry_after_seconds = 5

    def __init__(self, zone: str) -> None:
        super().__init__(
            "time_zone_not_known",
            f"days are counted in {zone}, which this version of the server does not know: upgrade "
            "it, or have the desk name another zone",
        )


class Covers(ApiModel):
    """What an answer by days is about: from when until before when, and whose days those are."""

    time_zone: str
    first: datetime = Field(alias="from")
    until: datetime


class DaysOfZone(NamedTuple):
    """Days of a time zone, by which sums are counted: its place among those of the views, and which
    day it is there now, or as of the time of the views.
    """

    zone: str
    place: int
    today: date

    def covers(self, first: date, last: date) -> JsonObject:
        """Return what `Covers` tells of a range of days."""
        from_, until = days.begins(self.zone, first), days.ends(self.zone, last)
        return {"time_zone": self.zone, "from": from_, "until": until}


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Views to be asked, the headers that say of when they are, and when that is.

    `kept`: which views, if they are as of a time; None for those of now, whichever they are.
    """

    headers: Mapping[str, str]
    now: datetime
    kept: Generation | None
    _read_models: "ReadModels"

    async def ask(self, question: Callable[[Database], Awaitable[T]]) -> T:
        """Ask the database as it is with these views. Raises StoreUnavailable."""
        return await self._read_models.ask(question, self.kept)

    async def ask_by_days(
        self, tz: str | None, question: Callable[[Database, DaysOfZone], Awaitable[T]]
    ) -> T:
        """Do the same with a question about sums by days of a zone: the desk's unless one is named.

        Raises NoSuchDays, TimeZoneNotKnown, SumsOfFormerVersion, StoreUnavailable.
        """

        async def of(views: Generation, shown: Database) -> T:
            if views.shape < Counters.since_shape:
                raise SumsOfFormerVersion
            zone = views.zones[0] if tz is None else tz
            if zone not in views.zones:
                raise NoSuchDays(views.zones)
            if zone not in calendars.zones():
                raise TimeZoneNotKnown(zone)
            today = days.day_of(zone, self.now)
            return await question(shown, DaysOfZone(zone, views.zones.index(zone), today))

        return await self._read_models.ask_generation(of, self.kept)


class ReadModels:
    """What the views of one database show, for requests that ask, or wait for it."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._generations = Generations(database)
        self._documents = RequestBatcher(self._find_any)
        self._versions = RequestBatcher(self._look)
        self._age = CachedValue(self._read_age)

    async def ask(
        self, question: Callable[[Database], Awaitable[T]], kept: Generation | None = None
    ) -> T:
        """Ask the database as it is with the views of now, or with those that are kept.

        Raises StoreUnavailable.
        """
        return await self.ask_generation(lambda _, shown: question(shown), kept)

    async def ask_generation(
        self,
        question: Callable[[Generation, Database], Awaitable[T]],
        kept: Generation | None = None,
    ) -> T:
        """Do the same with a question that must know which views they are."""
        async with time_limit():
            if kept is not None:
                return await question(kept, kept.of(self._database))
            return await self._generations.ask_generation(
                lambda views: question(views, views.of(self._database))
            )

    async def known(self) -> Generation:
        """Return which views are shown, or were a second ago. Raises StoreUnavailable."""
        async with time_limit():
            return await self._generations.known()

    async def any_ticket(self, ticket_id: UUID) -> Mapping[str, object] | None:
        """Return a ticket's document in any views: the log has what it does not show."""
        return await self._documents.get(ticket_id)

    async def _find_any(self, ids: Collection[UUID]) -> dict[UUID, Mapping[str, object]]:
        with translate_driver_errors():
            shown = (await self._generations.known()).of(self._database)
            found = shown.collection(tickets.COLLECTION).find({"_id": {"$in": [*ids]}})
            return {uuid_of(document): document for document in await found.to_list()}

    async def open(
        self, asked: FreshnessQuery, prefer: str | None, by: str = "version"
    ) -> Snapshot:
        """Open the views that are asked for, once they show what is asked for. `by`: the field that
        holds the versions that are asked for.

        Raises ViewsBehind, UnknownAsOf, Unacceptable, StoreUnavailable.
        """
        if asked.as_of_view is not None:
            if asked.after:
                raise Unacceptable(
                    "bad_after", "after is about the views of now, not those as of a time"
                )
            async with time_limit():
                built = await self._generations.as_of(asked.as_of_view)
            headers = {AS_OF_HEADER: built.until.isoformat()}
            return Snapshot(headers, built.until, built.generation, self)
        seconds = wait_seconds(prefer)
        if not await self.show(
            asked.awaited(), WAIT_UNASKED_SECONDS if seconds is None else seconds, by
        ):
            raise ViewsBehind
        headers = {AGE_HEADER: await self._age.get(_AGE_KEPT_SECONDS)}
        return Snapshot(headers, self._database.clock.now(), None, self)

    async def _read_age(self) -> str:
        """Return the age in seconds, or `unknown`."""
        age = health.age_seconds(await self.ask(lambda shown: Checkpoints(shown).read()))
        return "unknown" if age is None else f"{age:.1f}"

    async def show(self, versions: Mapping[UUID, int], seconds: float, by: str = "version") -> bool:
        """Wait until the tickets are shown at these versions or later, as their field `by` has
        them; False if time is up.
        """
        shown: Mapping[UUID, Mapping[str, int]] = {}
        with suppress(StoreError):
            shown = await self._shown(versions) if versions else {}
        if all(each in shown and shown[each][by] >= n for each, n in versions.items()):
            return True
        with suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await asyncio.gather(*(self._until(*wanted, by) for wanted in versions.items()))
                return True
        return False

    async def _until(self, ticket_id: UUID, version: int, by: str) -> None:
        shown = 0
        while shown < version:
            with suppress(StoreError):
                found = await self._versions.get(ticket_id)
                shown = 0 if found is None else found[by]

    async def _look(self, ids: Collection[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        """Return what is shown in a moment: while it passes, others gather."""
        await asyncio.sleep(_LOOK_SECONDS)
        return await self._shown(ids)

    async def _shown(self, ids: Collection[UUID]) -> Mapping[UUID, Mapping[str, int]]:
        """Return the versions of tickets that are shown, by the fields that hold them."""

        async def question(shown: Database) -> dict[UUID, Mapping[str, int]]:
            reads = shown.collection(tickets.COLLECTION)
            found = reads.find({"_id": {"$in": [*ids]}}, {"version": 1, "public_version": 1})
            return {
                uuid_of(d): cast("dict[str, int]", {"public_version": 0, **d}) async for d in found
            }

        return await self.ask(question)
