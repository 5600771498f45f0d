"""The desk's set-up: where it is kept, and its routes.

Every set-up there ever was stays, as a document of `desks` with its version as `_id`; the newest
holds. Whoever inserts version n+1 first has changed it, as with a ticket's events.

    {_id: version, desk, changed_at, changed_by: {id, role}, closing_since}

`closing_since` is when `close_resolved_after_days` got the value it has: nothing is closed as of a
time before that.

A process keeps what it last read for some seconds, so a command may be decided on a set-up that is
that old. A refusal is not: before one is believed, the set-up is read anew.
"""

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Annotated, NamedTuple, cast

from fastapi import APIRouter, Query, Response
from pydantic import BaseModel

from api.access import CurrentActor
from api.answers import described_headers
from api.commands import IfMatch, expected_version
from api.handle import VersionMismatch
from api.problems import problem_responses
from domain.desk import EMPTY_DESK, Desk
from domain.errors import NotFound
from domain.events import Actor, JsonObject
from eventstore.driver import Database
from eventstore.envelope import ActorDocument, utc_now
from eventstore.failures import VersionConflict, answering
from eventstore.resend import insert

COLLECTION = "desks"
KEPT_SECONDS = 5.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class NoSuchDesk(NotFound):
    """A version was asked for that there never was."""

    def __init__(self) -> None:
        super().__init__("desk_version_not_found", "the desk never had this version")


class SetUp(NamedTuple):
    """A version of the set-up. Version 0 is the empty desk that one starts with."""

    version: int
    desk: Desk
    changed_at: datetime
    changed_by: Actor
    closing_since: datetime


_FIRST = SetUp(0, EMPTY_DESK, _LONG_AGO, Actor("casebook", "system"), _LONG_AGO)


class Desks:
    """The set-ups in one database."""

    def __init__(self, database: Database, now: Callable[[], datetime] = utc_now) -> None:
        self._now = now
        self._documents = database.collection(COLLECTION)
        self._kept: tuple[float, SetUp] | None = None
        self._reading = asyncio.Lock()

    async def current(self, *, sure: bool = False) -> Desk:
        """Give the set-up that holds, at most some seconds old; as of now if `sure`.

        Raises StoreUnavailable.
        """
        clock = asyncio.get_running_loop().time
        asked = clock()
        if not sure and self._kept is not None and asked - self._kept[0] < KEPT_SECONDS:
            return self._kept[1].desk
        async with self._reading:
            # Who waited for another's reading has what was read after he asked.
            if self._kept is None or self._kept[0] < asked:
                began = clock()
                return self._keep(began, await self.read())
            return self._kept[1].desk

    def _keep(self, read_at: float, set_up: SetUp) -> Desk:
        """Keep what was read, unless something newer was made meanwhile; give what is kept."""
        if self._kept is None or self._kept[1].version <= set_up.version:
            self._kept = (read_at, set_up)
        return self._kept[1].desk

    async def read(self, version: int | None = None) -> SetUp:
        """Give a version, or the newest. Raises StoreUnavailable, NoSuchDesk."""
        async with answering():
            if version is None:
                newest = await self._documents.find().sort("_id", -1).limit(1).to_list()
            else:
                newest = await self._documents.find({"_id": version}).to_list()
        if newest:
            return _from_document(newest[0])
        if version:
            raise NoSuchDesk
        return _FIRST

    async def replace(self, desk: Desk, actor: Actor, expected: int | None) -> SetUp:
        """Make `desk` the set-up; nothing happens if it is that already.

        Raises VersionMismatch if the newest version is another than `expected`, StoreUnavailable.
        """
        while True:
            newest = await self.read()
            if (newest.desk, newest.changed_by, newest.version - 1) == (desk, actor, expected):
                return newest  # sent again, by one who was not told that it was done
            if expected not in (None, newest.version):
                raise VersionMismatch("desk", newest.version)
            if newest.desk == desk:
                return newest
            now, began = self._now(), asyncio.get_running_loop().time()
            days = desk.close_resolved_after_days
            same = days == newest.desk.close_resolved_after_days
            since = newest.closing_since if same else now
            changed = SetUp(newest.version + 1, desk, now, actor, since)
            try:
                await insert(self._documents, _to_document(changed))
            except VersionConflict:
                continue  # someone was first: look at theirs
            self._keep(began, changed)
            return changed


def _to_document(set_up: SetUp) -> JsonObject:
    desk = set_up.desk.model_dump(mode="json")
    # As a list: a group's name may hold what a field's name in a document must not.
    desk["groups"] = [{"name": n, "members": list(m)} for n, m in set_up.desk.groups.items()]
    return {
        "_id": set_up.version,
        "desk": desk,
        "changed_at": set_up.changed_at,
        "changed_by": asdict(set_up.changed_by),
        "closing_since": set_up.closing_since,
    }


def _from_document(document: Mapping[str, object]) -> SetUp:
    desk = dict(cast("JsonObject", document["desk"]))
    groups = cast("list[dict[str, object]]", desk["groups"])
    desk["groups"] = {group["name"]: group["members"] for group in groups}
    return SetUp(
        version=cast("int", document["_id"]),
        desk=Desk.model_validate(desk),
        changed_at=cast("datetime", document["changed_at"]),
        changed_by=Actor(**cast("ActorDocument", document["changed_by"])),
        closing_since=cast("datetime", document["closing_since"]),
    )


# --- routes -------------------------------------------------------------------------------------


class DeskAnswer(BaseModel, extra="forbid"):
    """A set-up, and who made it so when."""

    version: int
    changed_at: datetime
    changed_by: Actor
    desk: Desk


_ETAG: dict[str, object] = {"headers": described_headers("ETag")}


def router(desks: Desks) -> APIRouter:
    """Make the routes of the set-up."""
    routes = APIRouter(tags=["desk"])

    @routes.get(
        "/desk",
        response_model=DeskAnswer,
        responses={200: _ETAG, **problem_responses(404, 422, 503)},
    )
    async def show_desk(
        version: Annotated[int | None, Query(ge=0, lt=2**31, description="A former one.")] = None,
    ) -> Response:
        """Show how the desk is set up: groups, custom fields, SLA policies; or how it was."""
        return _answer(await desks.read(version))

    @routes.put(
        "/desk",
        response_model=DeskAnswer,
        responses={200: _ETAG, **problem_responses(400, 412, 422, 503)},
    )
    async def set_up_desk(desk: Desk, actor: CurrentActor, if_match: IfMatch = None) -> Response:
        """Set the desk up, as a whole. All former set-ups stay to be looked at.

        Every process goes by it within some seconds. Tickets that are there already keep what was
        promised for them.
        """
        return _answer(await desks.replace(desk, actor, expected_version(if_match)))

    return routes


def _answer(set_up: SetUp) -> Response:
    answer = DeskAnswer(
        version=set_up.version,
        changed_at=set_up.changed_at,
        changed_by=set_up.changed_by,
        desk=set_up.desk,
    )
    etag = {"ETag": f'"{set_up.version}"'}
    return Response(answer.model_dump_json(), 200, etag, "application/json")
