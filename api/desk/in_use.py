"""What tickets use of a desk, and what becomes of that when the set-up changes.

A set-up that takes away a group, an agent, a field or a choice that tickets which are not closed
use is refused, unless it says in `retired` what becomes of them; so is one that leaves such a group
without members. The views tell what is in use, some seconds late. What that misses, and what comes
into a group while the set-up changes, is met by what a set-up says of all groups that former ones
had: `Desk.succeeding`. Until the timekeeper has changed a ticket, it is seen as if it had been: see
`api/queries/visibility.py`. So at no moment does it matter which of the two was first.
"""

import asyncio
from collections import defaultdict
from collections.abc import Collection, Iterator, Mapping
from functools import partial
from typing import NamedTuple, get_args
from uuid import UUID

from api.queries.watermark import ReadModels
from domain.desk import Desk, FieldDefinition
from domain.errors import CasebookError, StateConflict
from domain.tickets.ticket import Status
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.documents import uuid_of
from eventstore.mongo.sorted_pages import listed_along
from projections.projector import health
from projections.projector.checkpoints import Checkpoints
from projections.views import indexes, tickets
from projections.views.filter import AnyOf, Filter, Is, Not, all_of

_MOST_FOUND = 50_000
_EXAMPLES = 3
_FRESH_SECONDS = 10.0
_LOOKS, _LOOK_SECONDS = 30, 0.1
LIVING = Is("status", tuple(status for status in get_args(Status) if status != "closed"))

Use = tuple[str, str]
"""Where in a set-up to say what becomes of something (a JSON Pointer), and what it is, in words."""


class DeskInUse(StateConflict):
    """For example: a group is taken away that twelve tickets are in."""

    def __init__(self, found: Mapping[Use, list[UUID]], *, all_told: bool) -> None:
        uses = sorted(found.items(), key=lambda use: -len(use[1]))
        self.faults = [
            (pointer, f"{what}: {_count(ids)}, such as {', '.join(map(str, ids[:_EXAMPLES]))}")
            for (pointer, what), ids in uses
        ]
        first = "; ".join(f"{what} ({_count(ids)})" for (_, what), ids in uses[:_EXAMPLES])
        more = "" if all_told else "; there may be more"
        super().__init__(
            "desk_in_use",
            f"tickets that are not closed use what this set-up has no more: {first}{more}; say in "
            "`retired` what becomes of them, where `errors` points",
        )


class DeskUseUnknown(CasebookError):
    """The views are not current, so nobody can say what is in use: try again once they are."""

    kind = "unavailable"

    def __init__(self) -> None:
        super().__init__(
            "desk_use_unknown",
            "the views are behind, so that it is not known what tickets use of what this set-up "
            "takes away; try again once they are current",
        )


def _count(ids: Collection[UUID]) -> str:
    return f"{len(ids)} ticket{'s' * (len(ids) != 1)}"


class _Removed(NamedTuple):
    """What a set-up takes away, as far as it does not say what becomes of it.

    `known`: the groups that a ticket can be in, None if it does not matter; `empty`: those that
    lose their last members.
    """

    known: frozenset[str] | None
    empty: frozenset[str]
    agents: frozenset[str]
    fields: frozenset[str]
    choices: Mapping[str, frozenset[str]]

    @classmethod
    def of(cls, former: Desk, new: Desk) -> "_Removed":
        said, new_said = former.retired, new.retired
        is_regrouped = bool(new.groups) and new.groups.keys() != former.groups.keys()
        groups = {*new.groups, *said.groups, *new_said.groups}
        agents = former.agents() - new.agents() - said.agents.keys() - new_said.agents.keys()
        fields = former.fields.keys() - new.fields - said.fields.keys() - new_said.fields.keys()
        return cls(
            known=frozenset(groups) if is_regrouped else None,
            empty=frozenset(g for g, m in new.groups.items() if not m and former.groups.get(g)),
            agents=frozenset(agents if new.groups else ()),
            fields=frozenset(fields if new.fields else ()),
            choices={
                key: gone
                for key, field in new.fields.items()
                if (old := former.fields.get(key)) is not None
                and (gone := _gone(old, field) - new_said.choices.get(key, {}).keys())
            },
        )

    def filter(self) -> Filter | None:
        """Return the filter for tickets that use any of it; None if nothing is taken away."""
        known = () if self.known is None else (None, *sorted(self.known))
        asked = [Not(all_of(Is("group", known)))] if known else []
        return _living(asked, self.empty, self.agents, self.fields, self.choices)

    def used_by(self, document: Mapping[str, object]) -> Iterator[Use]:
        """Yield what a ticket uses of it."""
        group, assignee, fields = document["group"], document["assignee"], document["fields"]
        if isinstance(group, str) and self.known is not None and group not in self.known:
            yield _pointer("retired", "groups", group), f"the group {group!r}"
        if isinstance(group, str) and group in self.empty:
            yield _pointer("groups", group), f"the group {group!r}, which would have no members"
        if isinstance(assignee, str) and assignee in self.agents:
            yield _pointer("retired", "agents", assignee), f"the agent {assignee!r}"
        for key, value in fields.items() if isinstance(fields, dict) else ():
            if key in self.fields:
                yield _pointer("retired", "fields", key), f"the field {key}"
            for each in value if isinstance(value, list) else (value,):
                if each in self.choices.get(key, ()):
                    place = _pointer("retired", "choices", key, each)
                    yield place, f"the choice {each!r} of {key}"


def _gone(old: FieldDefinition, new: FieldDefinition) -> frozenset[str]:
    return frozenset(old.choices).difference(new.choices) if new.choices else frozenset()


def _pointer(*steps: str) -> str:
    return "".join(f"/{step.replace('~', '~0').replace('/', '~1')}" for step in steps)


def _living(
    terms: Collection[Is | Not],
    groups: Collection[str],
    agents: Collection[str],
    fields: Collection[str],
    choices: Mapping[str, Collection[str]],
) -> Filter | None:
    """Return the filter for tickets that are not closed and use any of these, if they are any."""
    asked: list[Is | Not] = [*terms]
    asked += [Is("group", tuple(sorted(groups)))] if groups else []
    asked += [Is("assignee", tuple(sorted(agents)))] if agents else []
    asked += [Not(all_of(Is(f"fields.{key}", (None,)))) for key in sorted(fields)]
    asked += [Is(f"fields.{key}", tuple(sorted(names))) for key, names in sorted(choices.items())]
    return all_of(LIVING, AnyOf(tuple(map(all_of, asked)))) if asked else None


def to_be_changed(desk: Desk) -> Filter | None:
    """Return the filter for tickets that use what the desk has retired; None if it says nothing."""
    retired = desk.retired
    clear = [key for key, said in retired.fields.items() if said == "clear"]
    return _living(
        (),
        retired.groups if desk.groups else (),
        retired.agents if desk.groups else (),
        clear if desk.fields else (),
        {
            key: names
            for key, moves in retired.choices.items()
            if (names := [name for name, to in moves.items() if to != name])
        },
    )


async def check(views: ReadModels, former: Desk, new: Desk) -> None:
    """Raise DeskInUse if tickets use what a set-up takes away and does not say it of.

    Raises DeskUseUnknown, StoreUnavailable.
    """
    removed = _Removed.of(former, new)
    if (asked := removed.filter()) is None:
        return
    if former.groups or former.fields:  # else nothing is taken away that anybody counts on
        await _require_current(views)
    found: dict[Use, list[UUID]] = defaultdict(list)
    documents = await views.ask(partial(_find, asked))
    for document in documents:
        for use in removed.used_by(document):
            found[use].append(uuid_of(document))
    if found:
        raise DeskInUse(found, all_told=len(documents) < _MOST_FOUND)


async def _require_current(views: ReadModels) -> None:
    """Wait a moment until the views are current. Raises DeskUseUnknown."""
    for _ in range(_LOOKS):
        age = health.age_seconds(await views.ask(lambda shown: Checkpoints(shown).read()))
        if age is not None and age < _FRESH_SECONDS:
            return
        await asyncio.sleep(_LOOK_SECONDS)
    raise DeskUseUnknown


async def left(views: ReadModels, desk: Desk) -> int:
    """Return how many tickets use what the desk has retired: they are being changed."""
    asked = to_be_changed(desk)
    return 0 if asked is None else len(await views.ask(partial(_find, asked)))


async def _find(asked: Filter, shown: Database) -> list[JsonObject]:
    """Return of tickets what may be in use, along the index of those that are not closed."""
    what = {"group": 1, "assignee": 1, "fields": 1}
    found = shown.collection(tickets.COLLECTION).find(asked.condition(), what).limit(_MOST_FOUND)
    return await listed_along(indexes.OF_LISTS["status"], found)
