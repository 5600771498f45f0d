"""The sample log told in words: what `make demo` loads.

The log has codes where subjects, texts and names were. Its times, states, priorities, hand-overs
and reopenings are kept; what people say about them comes from `sample/words.toml`, picked by the
codes' numbers. Its groups become five of four agents each, and its callers a few requesters. What
happens to an assigned ticket is ascribed to its agent. Closing is left to the desk.
"""

import re
import tomllib
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from itertools import groupby
from pathlib import Path

from pydantic import BaseModel

from domain.actors import Actor
from domain.desk import Desk, SlaPolicy
from domain.tickets.assignment import AssignTicket, MoveToGroup, UnassignTicket
from domain.tickets.command import Command
from domain.tickets.conversation import AddNote, Reply
from domain.tickets.details import SetField
from domain.tickets.lifecycle import (
    CloseTicket,
    RateTicket,
    ReopenTicket,
    ResolveTicket,
    UpdateStatus,
)
from domain.tickets.opening import OpenTicket
from domain.tickets.promises import ChangePriority
from domain.values import Priority
from scripts.import_formats import Act, History, Step

_FIRST_GROUP = 70
_AGENTS = 4  # of each group
_REQUESTERS = 20
_OPERATORS = 3
_RATED_AFTER = timedelta(days=1)
_HOUR = 60
_DAY = 24 * _HOUR
_CLOSED_AFTER_DAYS = 10  # one is reopened after nine
_PROMISES: Mapping[Priority, SlaPolicy] = {
    "urgent": SlaPolicy(first_response_minutes=_HOUR, resolution_minutes=_DAY),
    "high": SlaPolicy(first_response_minutes=4 * _HOUR, resolution_minutes=3 * _DAY),
    "normal": SlaPolicy(first_response_minutes=2 * _DAY, resolution_minutes=14 * _DAY),
    "low": SlaPolicy(first_response_minutes=4 * _DAY, resolution_minutes=30 * _DAY),
}
_OTHERS: Sequence[Priority] = ("normal", "normal", "low", "normal", "high", "low", "normal")


class _Topic(BaseModel):
    tag: str
    problems: Sequence[str]
    question: str
    fixes: Sequence[str]


class _Words(BaseModel):
    groups: Sequence[str]
    first_group: str
    first_replies: Sequence[str]
    notes: Sequence[str]
    moves: Sequence[str]
    handovers: Sequence[str]
    answers: Sequence[str]
    complaints: Sequence[str]
    vendor: str
    problem: str
    solved: str
    ratings: Sequence[str]
    topics: Sequence[_Topic]


_FILE = Path(__file__).parent / "sample" / "words.toml"
_WORDS = _Words.model_validate(tomllib.loads(_FILE.read_text()))
_GROUPS = (_WORDS.first_group, *_WORDS.groups)


def retold(history: History) -> list[Act]:
    """Return what happened to a ticket of the log, in the order of its times. Pure."""
    return sorted(_Story(history).acts(), key=lambda act: act.at)


def desk_of(lives: Iterable[Sequence[Act]]) -> Desk:
    """Return a desk whose groups have all agents that are assigned in them, and alice of the README
    and the tutorial; it promises what most of its tickets keep.
    """
    members: defaultdict[str, set[str]] = defaultdict(set)
    members[_WORDS.first_group].add("alice")
    for acts in lives:
        group = None
        for act in acts:
            if isinstance(act.command, MoveToGroup):
                group = act.command.group
            elif isinstance(act.command, AssignTicket):
                members[group or _WORDS.first_group].add(act.command.assignee)
    groups = {name: tuple(sorted(members[name], key=_number)) for name in sorted(members)}
    return Desk(groups=groups, sla={**_PROMISES}, close_resolved_after_days=_CLOSED_AFTER_DAYS)


class _Story:
    """Tells one ticket's history. What was told so far decides who acts, and which words are next:
    the same are not used twice in a row.
    """

    def __init__(self, history: History) -> None:
        self._history = history
        self._seed = _number(history.number)
        self._said = 0
        self._group: str | None = None
        self._assignee: str | None = None
        self._waits = self._is_solved = False
        self._hands = self._reopenings = self._moved_in = 0

    def acts(self) -> Iterator[Act]:
        for _, steps in groupby(self._history.steps, key=lambda step: (step.line, step.at)):
            row = list(steps)
            told = [act for step in row for act in self._told(step)]
            kinds = {type(step.command) for step in row}
            if self._assignee and MoveToGroup in kinds and AssignTicket not in kinds:
                told.append(self._unassignment(row[0]))
            if not told and SetField in kinds and not self._is_solved:
                told.append(self._staff(row[0], AddNote(body=self._one(_WORDS.notes))))
            yield from told
        yield from self._rating()

    def _told(self, step: Step) -> Iterator[Act]:
        match step.command:
            case OpenTicket() as opening:
                yield self._opening(step, opening)
            case MoveToGroup(group=group):
                yield from self._move(step, group)
            case AssignTicket(assignee=assignee):
                yield from self._assignment(step, assignee)
            case UnassignTicket():
                yield self._unassignment(step)
            case UpdateStatus() as update:
                yield from self._status(step, update)
            case ResolveTicket():
                yield from self._resolution(step)
            case ReopenTicket():
                self._reopenings += 1
                self._is_solved = False
                yield self._requester(step, Reply(body=self._one(_WORDS.complaints)))
            case ChangePriority() as change:
                yield self._staff(step, change)
            case CloseTicket() | _:
                return

    def _opening(self, step: Step, opening: OpenTicket) -> Act:
        codes = {key: _number(str(value)) for key, value in opening.fields.items()}
        kind = codes.get("category", 0) + codes.get("subcategory", 0)
        self._topic = _WORDS.topics[kind % len(_WORDS.topics)]
        problem = self._topic.problems[self._seed % len(self._topic.problems)]
        self._caller = Actor(
            f"Requester {_number(opening.requester) % _REQUESTERS + 1}", "requester"
        )
        site = f"Site {codes.get('location', 0)}"
        since = self._one(("this morning", "yesterday", "some days ago"))
        command = OpenTicket(
            subject=problem,
            body=f"It began {since}; {site} is concerned. Reported by telephone.",
            requester=self._caller.id,
            priority=self._priority(opening.priority),
            tags=(self._topic.tag,),
            fields={"site": site},
        )
        return Act(step.at, _operator(step), command)

    def _priority(self, priority: Priority) -> Priority:
        """Return another than nearly all of the log's tickets have, for some."""
        return _OTHERS[self._seed % len(_OTHERS)] if priority == "normal" else priority

    def _move(self, step: Step, code: str | None) -> Iterator[Act]:
        group = None if code is None else _group(_number(code))
        if group == self._group:
            return
        if group is not None and self._group is not None:
            note = self._one(_WORDS.moves).format(group=group)
            yield self._staff(step, AddNote(body=note))
        yield self._staff(step, MoveToGroup(group=group))
        self._group, self._moved_in = group, step.line

    def _assignment(self, step: Step, code: str) -> Iterator[Act]:
        group = _GROUPS.index(self._group or _WORDS.first_group)
        agent = f"Agent {group * _AGENTS + _number(code) % _AGENTS + 1}"
        if agent == self._assignee:
            return
        if self._assignee is not None and self._moved_in != step.line:
            note = self._one(_WORDS.handovers).format(agent=agent)
            yield self._staff(step, AddNote(body=note))
        yield self._staff(step, AssignTicket(assignee=agent))
        self._assignee = agent
        self._hands += 1
        if self._hands == 1:
            yield self._staff(step, Reply(body=self._one(_WORDS.first_replies)))

    def _unassignment(self, step: Step) -> Act:
        act = self._staff(step, UnassignTicket())
        self._assignee = None
        return act

    def _status(self, step: Step, update: UpdateStatus) -> Iterator[Act]:
        if self._waits and update.status == "open":
            yield self._requester(step, Reply(body=self._one(_WORDS.answers)))
        self._waits = update.status == "pending"
        if update.status == "pending":
            yield self._staff(step, Reply(body=self._topic.question))
            update = UpdateStatus(status="pending", reason="waits for an answer")
        elif update.status == "on_hold":
            vendor = update.reason == "Awaiting Vendor"
            yield self._staff(step, AddNote(body=_WORDS.vendor if vendor else _WORDS.problem))
            reason = "waits for the vendor" if vendor else "waits for a known problem"
            update = UpdateStatus(status="on_hold", reason=reason)
        yield self._staff(step, update)

    def _resolution(self, step: Step) -> Iterator[Act]:
        if self._assignee is None:  # which the log allows
            yield from self._assignment(step, step.actor.id)
        self._is_solved, self._waits = True, False
        fix = self._one(self._topic.fixes)
        yield self._staff(step, Reply(body=f"{fix} {_WORDS.solved}"))
        yield self._staff(step, ResolveTicket(resolution=fix))

    def _rating(self) -> Iterator[Act]:
        """Two of three rate the solution, by what it took."""
        resolved = [s for s in self._history.steps if isinstance(s.command, ResolveTicket)]
        if resolved and self._seed % 3:
            score = max(1, 5 - self._hands // 2 - 2 * self._reopenings)
            rating = RateTicket(score=score, comment=_WORDS.ratings[score - 1])
            yield Act(resolved[-1].at + _RATED_AFTER, self._caller, rating)

    def _one(self, texts: Sequence[str]) -> str:
        self._said += 1
        return texts[(self._seed + self._said) % len(texts)]

    def _staff(self, step: Step, command: Command) -> Act:
        actor = _operator(step) if self._assignee is None else Actor(self._assignee, "agent")
        return Act(step.at, actor, command)

    def _requester(self, step: Step, command: Command) -> Act:
        return Act(step.at, self._caller, command)


def _operator(step: Step) -> Actor:
    return Actor(f"Operator {_number(step.actor.id) % _OPERATORS + 1}", "agent")


def _group(number: int) -> str:
    others = _WORDS.groups
    return _WORDS.first_group if number == _FIRST_GROUP else others[number % len(others)]


def _number(code: str) -> int:
    """Return the number in a code such as `Group 70`; 0 if it has none."""
    digits = re.sub(r"\D", "", code)
    return int(digits or 0)
