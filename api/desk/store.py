"""The desk's set-up: where it is kept.

Every set-up there ever was stays, as a document of `desks` with its version as `_id`; the newest
holds. Whoever inserts version n+1 first has changed it, as with a ticket's events.

    {_id: version, desk, changed_at, changed_by: {id, role}, closing_since}

`closing_since` is when `close_resolved_after_days` got the value it has: nothing is closed as of a
time before that; documents of before it was kept lack it, and then it is when they were stored.

What other versions have stored is read as `eventstore/documents.py` says: unknown parts are passed
over, and stay when the set-up is replaced. A field whose kind is not known takes nothing here. The
newest version is essential: commands and agents' sight go by it, and nothing older stands in for
one that cannot be read, for it may let in who is no longer to be. Until it can be read they get
503, and the process is not ready; it is replaced by whoever names it in `If-Match`.

A process keeps what it last read for some seconds, so a command may be decided on a set-up that is
that old. A refusal is not: before one is believed, the set-up is read anew.
"""

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime
from typing import Literal, NamedTuple, cast, get_args

from pydantic import BaseModel, ConfigDict

from api.commands.handler import VersionMismatch
from domain.desk import (
    EMPTY_DESK,
    Desk,
    FieldDefinition,
    FieldType,
    PartlyKnownDesk,
    SlaPolicy,
)
from domain.errors import NotFound, StateConflict
from domain.events import Actor, JsonObject, Priority, Role
from domain.lines import check_line
from eventstore.documents import (
    EssentialUnreadable,
    Reader,
    UnreadableDocument,
    keeping_unknown,
)
from eventstore.failures import VersionConflict, answering
from eventstore.mongo.driver import Database
from eventstore.mongo.resend import insert

COLLECTION = "desks"
KEPT_SECONDS = 5.0
_LONG_AGO = datetime(1970, 1, 1, tzinfo=UTC)


class NoSuchDesk(NotFound):
    """A version was asked for that there never was."""

    def __init__(self) -> None:
        super().__init__("desk_version_not_found", "the desk never had this version")


class UnreadableSetUp(StateConflict):
    """The newest set-up cannot be read, so what is to be kept of it is not known: for example one
    that a newer version has stored.
    """

    def __init__(self, version: int) -> None:
        super().__init__(
            "desk_unreadable",
            f"version {version} of the desk cannot be read by this version of the server; to "
            f'replace it all the same send `If-Match: "{version}"`',
        )


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

    def __init__(self, database: Database, now: Callable[[], datetime] | None = None) -> None:
        """`now`: the database's clock unless given."""
        self._now = now or database.clock.now
        self._documents = database.collection(COLLECTION)
        self._reader = Reader(database.unreadable, COLLECTION, from_document)
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
        """Return a version, or the newest.

        Raises StoreUnavailable, NoSuchDesk; EssentialUnreadable for the newest, UnreadableDocument
        for a former one.
        """
        document = await self._document(version)
        if document is not None:
            try:
                return self._reader.one(document)
            except UnreadableDocument as error:
                if version is not None:
                    raise
                raise EssentialUnreadable(COLLECTION, document["_id"]) from error
        if version:
            raise NoSuchDesk
        return _FIRST

    async def _document(self, version: int | None) -> JsonObject | None:
        # At least 1: what is no number would come behind them all.
        which: JsonObject = {"$gte": 1} if version is None else {"$eq": version}
        async with answering():
            found = self._documents.find({"_id": which}).sort("_id", -1).limit(1)
            return next(iter(await found.to_list()), None)

    async def replace(self, desk: Desk, actor: Actor, expected: int | None) -> SetUp:
        """Make `desk` the set-up; nothing happens if it is that already. What another version has
        put into it that this one does not know stays.

        Raises VersionMismatch if the newest version is another than `expected`, UnreadableSetUp if
        it cannot be read and is not expected by name, StoreUnavailable, and Unacceptable for a new
        name that is none.
        """
        while True:
            document = await self._document(None)
            version = 0 if document is None else cast("int", document["_id"])
            newest = self._readable(document)
            if newest is None:
                if expected is None:
                    raise UnreadableSetUp(version)
            elif _is_same(newest.desk, desk) and (
                newest.changed_by == actor and newest.version - 1 == expected
            ):
                return newest  # sent again, by one who was not told that it was done
            if expected not in (None, version):
                raise VersionMismatch("desk", version)
            if newest is not None and _is_same(newest.desk, desk):
                return newest
            if newest is not None:  # else nobody knows which names are new
                for name in desk.names() - newest.desk.names():
                    check_line("a name", name)
            now, began = self._now(), asyncio.get_running_loop().time()
            days = desk.close_resolved_after_days
            same = newest is not None and days == newest.desk.close_resolved_after_days
            since = newest.closing_since if newest is not None and same else now
            new = _to_document(SetUp(version + 1, desk, now, actor, since))
            if document is not None and newest is not None:
                stored = _by_name(cast("JsonObject", document["desk"]))
                kept = keeping_unknown(_by_name(_stored_desk(desk)), stored, _known(newest.desk))
                new["desk"] = _as_stored(kept)
            try:
                await insert(self._documents, new)
            except VersionConflict:
                continue  # someone was first: look at theirs
            changed = self._reader.one(new)
            self._keep(began, changed)
            return changed

    def _readable(self, document: JsonObject | None) -> SetUp | None:
        """Return what a document says, or the first set-up if there is none; None if it cannot be
        read.
        """
        if document is None:
            return _FIRST
        with suppress(UnreadableDocument):
            return self._reader.one(document)
        return None


def _is_same(stored: Desk, desk: Desk) -> bool:
    """Say whether nothing that this version knows of is different."""
    return _known(stored) == _known(desk)


def _to_document(set_up: SetUp) -> JsonObject:
    return {
        "_id": set_up.version,
        "desk": _stored_desk(set_up.desk),
        "changed_at": set_up.changed_at,
        "changed_by": asdict(set_up.changed_by),
        "closing_since": set_up.closing_since,
    }


def _known(desk: Desk) -> JsonObject:
    return desk.model_dump(mode="json", exclude={"unknown_fields"}) | {
        "groups": {n: {"name": n, "members": list(m)} for n, m in desk.groups.items()}
    }


def _stored_desk(desk: Desk) -> JsonObject:
    return _as_stored(_known(desk))


def _as_stored(desk: JsonObject) -> JsonObject:
    # As a list: a group's name may hold what a field's name in a document must not.
    return {**desk, "groups": list(cast("JsonObject", desk["groups"]).values())}


def _by_name(desk: JsonObject) -> JsonObject:
    groups = cast("list[JsonObject]", desk["groups"])
    return {**desk, "groups": {str(group["name"]): group for group in groups}}


class _Stored(BaseModel):
    """Part of a set-up as it is stored: held to its shape, not to what clients may send by now."""

    model_config = ConfigDict(strict=True)


class _StoredGroup(_Stored):
    name: str
    members: list[str]


class _StoredField(_Stored):
    type: str
    choices: list[str] = []
    required_on: str | None = None


class _StoredPolicy(_Stored):
    first_response_minutes: int | None = None
    resolution_minutes: int | None = None


class _StoredDesk(_Stored):
    groups: list[_StoredGroup]
    fields: dict[str, _StoredField]
    sla: dict[str, _StoredPolicy]
    close_resolved_after_days: int | None = None


class _StoredActor(_Stored):
    id: str
    role: str


class _StoredSetUp(_Stored):
    id: int
    desk: _StoredDesk
    changed_at: datetime
    changed_by: _StoredActor
    closing_since: datetime | None = None


def from_document(document: Mapping[str, object]) -> SetUp:
    stored = _StoredSetUp.model_validate({**document, "id": document["_id"]})
    return SetUp(
        version=stored.id,
        desk=_desk(stored.desk),
        changed_at=stored.changed_at,
        changed_by=Actor(stored.changed_by.id, cast("Role", stored.changed_by.role)),
        closing_since=stored.closing_since or stored.changed_at,
    )


_MOMENTS: Mapping[str, Literal["open", "resolve"]] = {"open": "open", "resolve": "resolve"}


def _desk(stored: _StoredDesk) -> Desk:
    """Make a set-up of what this version knows of a stored one."""
    known = get_args(FieldType)
    desk = Desk.model_construct(
        groups={group.name: tuple(group.members) for group in stored.groups},
        fields={
            key: FieldDefinition.model_construct(
                type=cast("FieldType", field.type),
                choices=tuple(field.choices),
                required_on=_MOMENTS.get(field.required_on or ""),
            )
            for key, field in stored.fields.items()
            if field.type in known
        },
        sla={
            cast("Priority", priority): SlaPolicy.model_construct(**policy.model_dump())
            for priority, policy in stored.sla.items()
            if priority in get_args(Priority)
        },
        close_resolved_after_days=stored.close_resolved_after_days,
    )
    unknown = frozenset(stored.fields.keys() - desk.fields.keys())
    if not unknown:
        return desk
    return PartlyKnownDesk.model_construct(**dict(desk), unknown_fields=unknown)
