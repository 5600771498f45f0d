"""How the desk is set up: its groups, its custom fields, what it promises.

Decisions consult it; the fold of a ticket never does. What is promised for a ticket is written into
its own events, so that yesterday's history does not change with today's set-up.

A desk that names no groups takes any name for one, and a desk that defines no fields takes any
field: so one can start with an empty desk, and be strict later.
"""

from collections.abc import Collection, Iterable, Mapping
from dataclasses import replace
from typing import Annotated, Literal, Self, get_args

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    StrictBool,
    model_validator,
)

from domain.calendars import Calendar, zones
from domain.errors import StateConflict, Unacceptable
from domain.retired import Retired, still_moved
from domain.sla import NO_PROMISE, SlaTargets
from domain.values import (
    Day,
    FieldKey,
    FieldValue,
    Name,
    NameOfPerson,
    Priority,
    at_most,
    canonical_decimal,
    is_day,
)

DESK_GROUPS = 500
DESK_AGENTS = 10_000
DESK_FIELDS = 100
FIELD_CHOICES = 200
DESK_CALENDARS = 50
DESK_RULES = 200
DESK_OTHER_ZONES = 5
CALENDAR_HOLIDAYS = 500
DAY_SPANS = 12

_TYPES = {"text": str, "integer": int, "boolean": bool}
FieldType = Literal["text", "integer", "boolean", "choice", "choices", "date", "decimal"]
Minutes = Annotated[int, Field(ge=1, le=5_256_000, strict=True)]  # ten years


def _each_once(names: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(names))


Names = Annotated[tuple[Name, ...], AfterValidator(_each_once)]
Members = Annotated[tuple[NameOfPerson, ...], AfterValidator(_each_once)]


def _few_members(groups: object) -> object:
    # Before any of them is looked at: see at_most.
    if isinstance(groups, dict):
        members = sum(len(names) for names in groups.values() if isinstance(names, list | tuple))
        if members > DESK_AGENTS:
            raise ValueError(f"the groups have at most {DESK_AGENTS} members in all")
    return groups


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)


class FieldDefinition(_Part):
    """A custom field: its type, what can be chosen, and whether it must be filled in by when.
    `public`: requesters see the values that it is given from then on.
    """

    type: FieldType
    choices: Annotated[Names, *at_most(FIELD_CHOICES)] = ()
    required_on: Literal["open", "resolve"] | None = None
    public: bool = False

    @model_validator(mode="after")
    def _choices_fit(self) -> Self:
        if (self.type in ("choice", "choices")) != bool(self.choices):
            raise ValueError("a choice or several have choices, and nothing else has")
        return self

    def canonical(self, value: FieldValue) -> FieldValue | None:
        """Return a value as it is kept, if it is of the field's kind: a decimal in its canonical
        form, choices as a list in the order of the desk. None if it is not.
        """
        match self.type:
            case "choice":
                return value if value in self.choices else None
            case "choices":
                several = value if isinstance(value, tuple) else (value,)
                chosen = tuple(each for each in self.choices if each in several)
                return chosen if len(chosen) == len(several) else None
            case "date":
                return value if isinstance(value, str) and is_day(value) else None
            case "decimal":
                return None if isinstance(value, bool | tuple) else canonical_decimal(str(value))
            case _:
                return value if type(value) is _TYPES[self.type] else None

    def kind(self) -> str:
        """Say in words what it takes."""
        return {
            "text": "text",
            "integer": "a whole number",
            "boolean": "true or false",
            "choice": f"one of: {', '.join(self.choices)}",
            "choices": f"a list of some of: {', '.join(self.choices)}",
            "date": "a day, like 2026-03-01",
            "decimal": 'a number as text, like "12.50"',
        }[self.type]


class SlaPolicy(_Part):
    """Within how many minutes of its clock a ticket is to be answered and resolved.
    `next_response_minutes`: an agent is to reply to what its requester says later.
    """

    first_response_minutes: Minutes | None = None
    next_response_minutes: Minutes | None = None
    resolution_minutes: Minutes | None = None


RuleValue = (
    Annotated[str, Field(min_length=1, max_length=200)]
    | Annotated[int, Field(ge=-(2**63), lt=2**63, strict=True)]
    | StrictBool
)


class SlaRule(SlaPolicy):
    """A policy for tickets of one priority, of one group, or whose `sla_field` has one value; of
    what it names, all. It says all that is promised for them.
    """

    priority: Priority | None = None
    group: Name | None = None
    value: RuleValue | None = None

    def is_for(self, priority: Priority, group: str | None, value: FieldValue | None) -> bool:
        """Say whether it is for such a ticket."""
        values = value if isinstance(value, tuple) else (value,)
        has_value = any(each == self.value and type(each) is type(self.value) for each in values)
        return (
            self.priority in (None, priority)
            and self.group in (None, group)
            and (self.value is None or has_value)  # 1 is not true
        )


Weekday = Literal["monday", "tuesday", "wednesday", "thursday", "friday", "saturday", "sunday"]
SPAN = r"^([01]\d|2[0-3]):[0-5]\d-(([01]\d|2[0-3]):[0-5]\d|24:00)$"
Span = Annotated[str, Field(pattern=SPAN, examples=["09:00-12:30"])]
Dates = Annotated[
    tuple[Day, ...],
    *at_most(CALENDAR_HOLIDAYS),
    AfterValidator(lambda days: tuple(sorted(set(days)))),
]


def _spans(day: tuple[str, ...]) -> tuple[str, ...]:
    last = -1
    for start, end in sorted(map(_minutes, day)):
        if not last < start < end:
            raise ValueError("spans of a day end after they begin, and do not touch one another")
        last = end
    return tuple(sorted(day))


def _minutes(span: str) -> tuple[int, int]:
    start, end = (int(time[:2]) * 60 + int(time[3:]) for time in span.split("-"))
    return start, end


Spans = Annotated[tuple[Span, ...], *at_most(DAY_SPANS), AfterValidator(_spans)]


def _some_hours(hours: dict[Weekday, tuple[str, ...]]) -> dict[Weekday, tuple[str, ...]]:
    if not any(hours.values()):
        raise ValueError("a calendar has business hours on some day")
    return hours


def _zone(name: str) -> str:
    if name not in zones():
        raise ValueError("there is no such time zone; one is named like Europe/Berlin")
    return name


Zone = Annotated[str, AfterValidator(_zone), Field(examples=["Europe/Berlin"])]
"""A time zone, by its name in the IANA's database."""


class PublicHolidays(_Part):
    """The public holidays of a country or of a part of it. `dates`: those of this year and the next
    three, which the server looks up when the desk is set up; what is sent is replaced.
    """

    of: Annotated[Name, Field(examples=["DE-BY"])]
    dates: Dates = ()


class BusinessHours(_Part):
    """A calendar: which time counts for tickets of some groups, or of all that no other names.

    `hours`: by weekday, as a clock on the wall there shows them; `holidays`: dates that do not
    count. `version`: of the desk that made it what it is, which the server says; what is sent is
    replaced.
    """

    zone: Zone
    hours: Annotated[dict[Weekday, Spans], AfterValidator(_some_hours)]
    holidays: Dates = ()
    public_holidays: PublicHolidays | None = None
    groups: Annotated[Names, *at_most(DESK_GROUPS)] | None = None
    version: Annotated[int, Field(ge=0, strict=True)] = 0

    def named(self, name: str) -> Calendar:
        """Return it as it is written into tickets."""
        public = () if self.public_holidays is None else self.public_holidays.dates
        return Calendar(
            name,
            self.version,
            self.zone,
            tuple(
                (n, *_minutes(span))
                for n, day in enumerate(get_args(Weekday))
                for span in self.hours.get(day, ())
            ),
            tuple(day.isoformat() for day in sorted({*self.holidays, *public})),
        )


class Desk(_Part):
    """The set-up. `groups`: the agents of each; `other_fields_public`: whether requesters see
    fields that are not in `fields`; `sla`: what is promised by priority, where none of the
    `sla_rules` is for a ticket, of which the first holds; `sla_field`: the custom field that these
    go by; `calendars`: which time counts; `time_zone`: whose days are the desk's, in figures and
    searches; `other_time_zones`: by whose days its figures can be asked for as well.
    """

    groups: Annotated[dict[Name, Members], *at_most(DESK_GROUPS), BeforeValidator(_few_members)] = (
        Field(default_factory=dict)
    )
    fields: Annotated[dict[FieldKey, FieldDefinition], *at_most(DESK_FIELDS)] = Field(
        default_factory=dict
    )
    other_fields_public: bool = False
    sla: dict[Priority, SlaPolicy] = Field(default_factory=dict)
    sla_rules: Annotated[tuple[SlaRule, ...], *at_most(DESK_RULES)] = ()
    sla_field: FieldKey | None = None
    calendars: Annotated[dict[FieldKey, BusinessHours], *at_most(DESK_CALENDARS)] = Field(
        default_factory=dict
    )
    close_resolved_after_days: Annotated[int, Field(ge=1, le=3650, strict=True)] | None = None
    time_zone: Zone = "UTC"
    other_time_zones: Annotated[
        tuple[Zone, ...], *at_most(DESK_OTHER_ZONES), AfterValidator(_each_once)
    ] = ()
    retired: Retired = Field(default_factory=Retired)

    @model_validator(mode="after")
    def _retired_is_gone(self) -> Self:
        _check_moves("group", self.retired.groups, self.groups)
        _check_moves("agent", self.retired.agents, self.agents())
        if there := self.retired.fields.keys() & self.fields:
            raise ValueError(f"the desk has the field {min(there)!r}, which is not retired then")
        for key, moves in self.retired.choices.items():
            field = self.fields.get(key)
            if field is None:
                raise ValueError(f"choices of {key!r} are retired, and the desk has no such field")
            moved = {name: to for name, to in moves.items() if to != name}
            _check_moves(f"choice of {key}", moved, field.choices)
            if field.required_on is not None and None in moves.values():
                raise ValueError(f"{key} is required: name a choice in the place of a retired one")
        return self

    def agents(self) -> set[str]:
        """Return the agents of all groups."""
        return {agent for members in self.groups.values() for agent in members}

    def succeeding(self, former: "Desk") -> Self:
        """Return the set-up with what stays said of what is gone.

        A group that `former` had and nothing is said of had no tickets; those that come into it at
        this very moment are of no group then. A desk without groups takes any, and retires none.
        """
        old, new = former.retired, self.retired
        gone = dict[str, str | None].fromkeys(former.groups if self.groups else ())
        choices = {}
        for key, field in self.fields.items():
            moves = {**old.choices.get(key, {}), **new.choices.get(key, {})}
            moves = still_moved(moves, field.choices)
            if field.required_on is not None:
                moves = {name: to for name, to in moves.items() if to is not None}
            if moves:
                choices[key] = moves
        fields = {**old.fields, **new.fields}
        retired = Retired.model_construct(
            groups=still_moved({**old.groups, **gone, **new.groups}, self.groups),
            agents=still_moved({**old.agents, **new.agents}, self.agents()),
            fields={key: said for key, said in fields.items() if key not in self.fields},
            choices=choices,
        )
        return self.model_copy(update={"retired": retired})

    def home(self, group: str | None) -> str | None:
        """Return the group whose members see to the tickets of a group: itself while it is there,
        or where they go.
        """
        if not self.groups or group is None or group in self.groups:
            return group
        return self.retired.groups.get(group, group)

    def leaving(self, homes: Collection[str]) -> frozenset[str]:
        """Return the retired groups whose tickets go to one of these, or to none."""
        retired = self.retired.groups if self.groups else {}
        return frozenset(group for group, to in retired.items() if to is None or to in homes)

    def successor(self, key: str, value: FieldValue) -> FieldValue | None:
        """Return what becomes of a field's value: itself, a choice in its place, or None."""
        if self.fields and key not in self.fields:
            return None if self.retired.fields.get(key) == "clear" else value
        moves = self.retired.choices.get(key, {})
        if isinstance(value, tuple):
            several = (moves.get(each, each) for each in value)
            return tuple(dict.fromkeys(each for each in several if each is not None)) or None
        return moves.get(value, value) if isinstance(value, str) else value

    @model_validator(mode="after")
    def _promises_fit(self) -> Self:
        of_rules = {rule.group for rule in self.sla_rules if rule.group is not None}
        lists = [calendar.groups for calendar in self.calendars.values()]
        of_calendars = [group for groups in lists for group in groups or ()]
        if self.groups and (unknown := {*of_rules, *of_calendars} - self.groups.keys()):
            raise ValueError(f"sla_rules and calendars name no group of the desk: {min(unknown)!r}")
        if len(of_calendars) != len(set(of_calendars)) or lists.count(None) > 1:
            raise ValueError("a group has one calendar, and one is for all that no other names")
        if self.sla_field is None and any(rule.value is not None for rule in self.sla_rules):
            raise ValueError("sla_rules go by a value: say in sla_field of which custom field")
        return self

    def names(self) -> set[str]:
        """Return all names in it: of groups and their members, and a field's choices."""
        members = (name for names in self.groups.values() for name in names)
        choices = (name for field in self.fields.values() for name in field.choices)
        return {*self.groups, *members, *choices}

    def has_member(self, group: str | None, agent: str) -> bool:
        """Say whether an agent is known to belong to a group; to none belongs everyone."""
        return group is None or agent in self.groups.get(group, ())

    def targets(
        self, priority: Priority, group: str | None, fields: Mapping[str, FieldValue]
    ) -> SlaTargets:
        """Return what is promised for such a ticket."""
        value = None if self.sla_field is None else fields.get(self.sla_field)
        rules = (rule for rule in self.sla_rules if rule.is_for(priority, group, value))
        policy = next(rules, self.sla.get(priority, SlaPolicy()))
        promised = SlaTargets(
            policy.first_response_minutes,
            policy.resolution_minutes,
            policy.next_response_minutes,
        )
        if promised == NO_PROMISE:
            return promised
        return replace(promised, calendar=self._calendar(group))

    def _calendar(self, group: str | None) -> Calendar | None:
        for of_others in (False, True):
            for name, calendar in self.calendars.items():
                if calendar.groups is None if of_others else group in (calendar.groups or ()):
                    return calendar.named(name)
        return None

    def takes_group(self, group: str | None) -> bool:
        """Say whether a ticket can be in this group, or in none."""
        return not self.groups or group is None or group in self.groups

    def check_group(self, group: str | None) -> None:
        """Raise Unacceptable if there is no such group."""
        if not self.takes_group(group):
            detail = f"the desk has no group {group!r}"
            if group in self.retired.groups:
                detail += f" any more; its tickets went to {self.home(group) or 'none'}"
            raise Unacceptable("unknown_group", detail)

    def check_assignee(self, assignee: str, group: str | None) -> None:
        """Raise Unacceptable for an unknown agent, StateConflict for one outside the group."""
        if not self.groups:
            return
        if not any(assignee in members for members in self.groups.values()):
            raise Unacceptable("unknown_agent", f"{assignee!r} is in no group of the desk")
        if group in self.groups and not self.has_member(group, assignee):
            raise StateConflict(
                "assignee_outside_group", f"{assignee!r} does not belong to the group {group!r}"
            )

    def canonical(self, key: str, value: FieldValue) -> FieldValue:
        """Return a field's value as it is kept.

        Raises Unacceptable if there is no such field, or the value is not one of its kind.
        """
        if not self.fields:
            return value
        field = self.fields.get(key)
        if field is None:
            raise Unacceptable("unknown_field", f"the desk has no field {key!r}")
        found = field.canonical(value)
        if found is None:
            raise Unacceptable("wrong_field_value", f"the field {key} takes {field.kind()}")
        return found

    def is_public(self, key: str) -> bool:
        """Say whether requesters see what a field is set to."""
        field = self.fields.get(key)
        return self.other_fields_public if field is None else field.public

    def missing(
        self, fields: Mapping[str, FieldValue], *moments: Literal["open", "resolve"]
    ) -> list[str]:
        """Return the fields that must be filled in by now and are not.

        An empty text fills none, nor does a value from before the field was what it is.
        """
        return sorted(
            key
            for key, field in self.fields.items()
            if field.required_on in moments and not _filled(field, fields.get(key))
        )

    def describe_missing(self, missing: Iterable[str], fields: Mapping[str, FieldValue]) -> str:
        """Name the fields that are missing; of one with a value that it does not take any more, say
        what that is and what it takes.
        """
        values = {key: fields.get(key, "") for key in missing}
        return ", ".join(
            f"{key} (it says {_words(value)}, and takes {self.fields[key].kind()})"
            if value
            else key
            for key, value in values.items()
        )


def _check_moves(what: str, moves: Mapping[str, str | None], there: Collection[str]) -> None:
    for name, to in moves.items():
        if name in there:
            raise ValueError(f"the desk has the {what} {name!r}, which is not retired then")
        if to is not None and to not in there:
            raise ValueError(f"the retired {what} {name!r} leads to {to!r}, which the desk has not")


def _filled(field: FieldDefinition, value: FieldValue | None) -> bool:
    return value is not None and value != "" and field.canonical(value) is not None


def _words(value: FieldValue) -> str:
    return ", ".join(value) if isinstance(value, tuple) else str(value)


class PartlyKnownDesk(Desk):
    """A set-up of another version, with custom fields of kinds that this one does not know.

    They are fields of the desk: no other version's field is taken for one that was not defined. But
    what they take cannot be said here, so they take nothing, and nobody is kept from anything for
    want of them.
    """

    unknown_fields: frozenset[str]

    def canonical(self, key: str, value: FieldValue) -> FieldValue:
        """Return what a desk does. Raises Unacceptable also for what another version can judge."""
        if key in self.unknown_fields:
            raise Unacceptable(
                "field_of_another_version",
                f"the field {key} is of a kind that this version of the server does not know",
            )
        if not self.fields:
            raise Unacceptable("unknown_field", f"the desk has no field {key!r}")
        return super().canonical(key, value)


EMPTY_DESK = Desk(other_fields_public=True)
"""What there is before any set-up: requesters see what they saw before fields could be internal."""
