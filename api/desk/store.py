"""The desk's set-up: where it is kept.

Every set-up there ever was stays, as a document of `desks` with its version as `_id`; the newest
holds. The first process to insert version n+1 has changed it, as with a ticket's events.

    {_id: version, desk, changed_at, changed_by: {id, role}, closing_since}

`closing_since` is when `close_resolved_after_days` got the value it has: nothing is closed as of a
time before that; documents of before it was kept lack it, and then it is when they were stored.

What other versions have stored is read as `eventstore/documents.py` says: unknown parts are passed
over, and stay when the set-up is replaced. A field whose kind is not known takes nothing here. The
newest version is essential: commands and agents' sight go by it, and nothing older stands in for
one that cannot be read, for it may let in who is no longer to be. Until it can be read they get
503, and the process is not ready; it can be replaced by a request that names it in `If-Match`.

A process keeps what it last read for some seconds, so a command may be decided on a set-up that is
that old. A refusal is not: before one is believed, the set-up is read anew.
"""

from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, date, datetime
from typing import Annotated, Literal, NamedTuple, cast, get_args

from pydantic import AfterValidator, BaseModel, BeforeValidator, Strict, ValidationError

from api.commands.handler import VersionMismatch
from api.desk.calendars import with_dates
from domain.actors import Actor, Role
from domain.calendars import zones
from domain.desk import (
    EMPTY_DESK,
    BusinessHours,
    Desk,
    FieldDefinition,
    FieldType,
    PartlyKnownDesk,
    PublicHolidays,
    SlaPolicy,
    SlaRule,
    Weekday,
)
from domain.errors import NotFound, StateConflict
from domain.lines import check_line
from domain.retired import Retired
from domain.values import JsonObject, Priority, one_spelling
from eventstore.cached_value import CachedValue
from eventstore.database import Database
from eventstore.documents import EssentialUnreadable, Reader, UnreadableDocument, keeping_unknown
from eventstore.failures import VersionConflict
from eventstore.mongo.errors import time_limit
from eventstore.mongo.resend import insert
from projections import desk_zones

COLLECTION = desk_zones.COLLECTION
KEPT_SECONDS = 5.0
_TYPES, _PRIORITIES, _WEEKDAYS = (get_args(each) for each in (FieldType, Priority, Weekday))
_Names = Annotated[tuple[str, ...], Strict(False)]
_Dates = Annotated[tuple[Annotated[date, Strict(False)], ...], Strict(False)]
_Moment = Literal["open", "resolve"]
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
        self._database = database
        self._documents = database.collection(COLLECTION)
        self._reader = Reader(database.unreadable, COLLECTION, from_document)
        self._recent = CachedValue(self.read)

    async def current(self, *, sure: bool = False) -> Desk:
        """Return the set-up that holds, at most some seconds old; as of now if `sure`.

        Raises StoreUnavailable, EssentialUnreadable.
        """
        return (await self._recent.get(0.0 if sure else KEPT_SECONDS)).desk

    async def read(self, version: int | None = None, *, within_seconds: float = 0.0) -> SetUp:
        """Return a version, or the newest, asked for within so many seconds from now.

        Raises StoreUnavailable, NoSuchDesk; EssentialUnreadable for the newest, UnreadableDocument
        for a former one.
        """
        document = await self._document(version, within_seconds)
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

    async def _document(
        self, version: int | None, within_seconds: float = 0.0
    ) -> JsonObject | None:
        async with time_limit():
            return await desk_zones.desk_document(self._database, version, within_seconds)

    async def replace(
        self,
        desk: Desk,
        actor: Actor,
        expected: int | None,
        check: Callable[[Desk, Desk], Awaitable[None]] | None = None,
    ) -> SetUp:
        """Make `desk` the set-up; nothing happens if it is that already. What another version has
        put into it that this one does not know stays, and so does what was said of what is gone.
        `check` raises for a set-up, its second argument, that cannot take the first one's place.

        Raises VersionMismatch if the newest version is another than `expected`, UnreadableSetUp if
        it cannot be read and is not expected by name, StoreUnavailable, and Unacceptable for a new
        name that is none, and for public holidays that are not known.
        """
        asked = desk
        while True:
            document = await self._document(None)
            version = 0 if document is None else cast("int", document["_id"])
            newest = self._readable(document)
            former = EMPTY_DESK if newest is None else newest.desk
            desk = asked.succeeding(former)
            desk = with_dates(desk, former, version + 1, self._now().year)
            if newest is None and expected is None:
                raise UnreadableSetUp(version)
            if newest is not None and _known(newest.desk) == _known(desk):
                # The version before: sent again by a client that did not get the first answer.
                is_again = newest.changed_by == actor and expected == version - 1
                if is_again or expected in (None, version):
                    return newest
            if expected not in (None, version):
                raise VersionMismatch("desk", version)
            if newest is not None and check is not None:
                await check(newest.desk, asked)
            new = self._document_of(desk, version + 1, actor, newest, document)
            try:
                await insert(self._documents, new)
            except VersionConflict:
                continue  # another process was first: look at its set-up
            changed = self._reader.one(new)
            self._recent.put(changed)
            return changed

    def _document_of(
        self,
        desk: Desk,
        version: int,
        actor: Actor,
        newest: SetUp | None,
        stored: JsonObject | None,
    ) -> JsonObject:
        """Return the document of a new version; `newest`, `stored`: what it replaces, as far as it
        can be read.
        """
        now = self._now()
        since, content = now, _known(desk)
        if newest is not None:  # else nobody knows which names are new
            for name in desk.names() - newest.desk.names():
                check_line("a name", name)
            if desk.close_resolved_after_days == newest.desk.close_resolved_after_days:
                since = newest.closing_since
            if stored is not None:
                former = _by_name(cast("JsonObject", stored["desk"]))
                content = keeping_unknown(content, former, _known(newest.desk))
        # As a list: a group's name may hold what a field's name in a document must not.
        groups = [*cast("JsonObject", content["groups"]).values()]
        return {
            "_id": version,
            "desk": {**content, "groups": groups},
            "changed_at": now,
            "changed_by": asdict(actor),
            "closing_since": since,
        }

    def _readable(self, document: JsonObject | None) -> SetUp | None:
        """Return what a document says, or the first set-up if there is none; None if it cannot be
        read.
        """
        if document is None:
            return _FIRST
        with suppress(UnreadableDocument):
            return self._reader.one(document)
        return None


def _known(desk: Desk) -> JsonObject:
    return desk.model_dump(mode="json", exclude={"unknown_fields"}) | {
        "groups": {n: {"name": n, "members": list(m)} for n, m in desk.groups.items()},
        "retired": _moves(desk.retired),
    }


def _moves(retired: Retired) -> JsonObject:
    # As lists: a name may hold what a field's name in a document must not.
    return {
        "groups": _listed(retired.groups),
        "agents": _listed(retired.agents),
        "fields": _listed(retired.fields),
        "choices": [
            {"field": key, **move}
            for key, named in retired.choices.items()
            for move in _listed(named)
        ],
    }


def _listed(moves: Mapping[str, str | None]) -> list[JsonObject]:
    return [{"name": name, "to": to} for name, to in moves.items()]


def _by_name(desk: JsonObject) -> JsonObject:
    groups = cast("list[JsonObject]", desk["groups"])
    return {**desk, "groups": {str(group["name"]): group for group in groups}}


def _known_moment(moment: object) -> object:
    return moment if moment in get_args(_Moment) else None


class _Stored(BaseModel, strict=True):
    """Part of a set-up as it is stored: held to its shape, not to what clients may send by now."""


def _made(kind: type[BaseModel]) -> AfterValidator:
    """Return what makes a part of the desk of one that was read."""
    return AfterValidator(lambda stored: kind.model_construct(**dict(stored)))


class _StoredGroup(_Stored):
    name: str
    members: _Names


class _StoredField(_Stored):
    type: str
    choices: _Names = ()
    required_on: Annotated[_Moment | None, BeforeValidator(_known_moment)] = None
    public: bool = True  # so it was before this was kept


class _StoredPolicy(_Stored):
    first_response_minutes: int | None = None
    next_response_minutes: int | None = None
    resolution_minutes: int | None = None


class _StoredRule(_StoredPolicy):
    priority: str | None = None
    group: str | None = None
    value: str | int | bool | None = None


class _StoredHolidays(_Stored):
    of: str
    dates: _Dates = ()


def _known_days(hours: dict[str, tuple[str, ...]]) -> dict[str, tuple[str, ...]]:
    return {day: hours[day] for day in _WEEKDAYS if day in hours}


class _StoredCalendar(_Stored):
    zone: str
    hours: Annotated[dict[str, _Names], AfterValidator(_known_days)]
    holidays: _Dates = ()
    public_holidays: Annotated[_StoredHolidays, _made(PublicHolidays)] | None = None
    groups: _Names | None = None
    version: int


class _StoredMove(_Stored):
    name: str
    to: str | None
    field: str | None = None


_Moves = Annotated[tuple[_StoredMove, ...], Strict(False)]


class _StoredRetired(_Stored):
    groups: _Moves = ()
    agents: _Moves = ()
    fields: _Moves = ()
    choices: _Moves = ()


def _known_calendar(calendar: object) -> object:
    # One of another form is another version's: passed over here.
    with suppress(ValidationError):
        return _StoredCalendar.model_validate(calendar)
    return None


_Rule = Annotated[_StoredRule, _made(SlaRule)]
_Calendar = Annotated[
    Annotated[_StoredCalendar, _made(BusinessHours)] | None, BeforeValidator(_known_calendar)
]


class _StoredDesk(_Stored):
    groups: list[_StoredGroup]
    fields: dict[str, Annotated[_StoredField, _made(FieldDefinition)]]
    other_fields_public: bool = True  # so it was before this was kept
    sla: dict[str, Annotated[_StoredPolicy, _made(SlaPolicy)]]
    sla_rules: Annotated[tuple[_Rule, ...], Strict(False)] = ()
    sla_field: str | None = None
    calendars: dict[str, _Calendar] = {}
    close_resolved_after_days: int | None = None
    time_zone: str = "UTC"
    other_time_zones: _Names = ()
    retired: _StoredRetired = _StoredRetired()


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
    """Read a set-up, as far as this version knows it. Raises ValidationError, KeyError."""
    stored = _StoredSetUp.model_validate({**document, "id": document["_id"]})
    return SetUp(
        version=stored.id,
        desk=_desk(stored.desk),
        changed_at=stored.changed_at,
        changed_by=Actor(stored.changed_by.id, cast("Role", stored.changed_by.role)),
        closing_since=stored.closing_since or stored.changed_at,
    )


def _desk(stored: _StoredDesk) -> Desk:
    fields = {key: field for key, field in stored.fields.items() if field.type in _TYPES}
    known = dict(stored) | {
        "groups": {
            group.name: tuple(dict.fromkeys(map(one_spelling, group.members)))
            for group in stored.groups
        },
        "fields": fields,
        "sla": {name: stored.sla[name] for name in _PRIORITIES if name in stored.sla},
        "sla_rules": tuple(
            rule for rule in stored.sla_rules if rule.priority in (None, *_PRIORITIES)
        ),
        "calendars": {name: each for name, each in stored.calendars.items() if each is not None},
        "time_zone": stored.time_zone if stored.time_zone in zones() else "UTC",
        "retired": _retired(stored.retired),
    }
    if unknown := frozenset(stored.fields.keys() - fields.keys()):
        return PartlyKnownDesk.model_construct(**known, unknown_fields=unknown)
    return Desk.model_construct(**known)


def _retired(stored: _StoredRetired) -> Retired:
    choices: dict[str, dict[str, str | None]] = {}
    for each in stored.choices:
        choices.setdefault(each.field or "", {})[each.name] = each.to
    return Retired.model_construct(
        groups={each.name: each.to for each in stored.groups},
        agents={each.name: each.to for each in stored.agents},
        fields={each.name: "clear" if each.to == "clear" else "keep" for each in stored.fields},
        choices=choices,
    )
