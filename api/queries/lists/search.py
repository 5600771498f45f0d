"""The search language of lists: `status:open priority>=high assignee:none printer jam`.

    query   terms with spaces between; all must hold
    term    [-] key op value  |  [-] word  |  [-] "some words"        (- : it must not hold)
    op      :   and for priority and times also  >  >=  <  <=
    value   a word, or text in double quotes, in which \\" and \\\\ stand for " and \\

A day begins and ends as in the desk's time zone.

A word is looked for wherever it stands: in subject, body, replies, resolutions, names of files, and
notes for those who may read them; whatever its case and accents. `print*` finds what begins so.

What is pasted is text: an unknown key, a key with nothing behind it, an address, a stray quote or
hyphen are looked for as the words in them. An unknown key that is nearly a known one is refused:
who means `status:open` would not find out otherwise.

Pure: text in, a filter out. A refusal names the place in the text.
"""

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from typing import get_args

from pydantic import TypeAdapter, ValidationError
from pydantic.config import JsonDict

from api.suggestions import did_you_mean
from domain.days import begins, ends
from domain.errors import Unacceptable
from domain.tickets.ticket import Status
from domain.values import FieldKey, Moment, Priority, Tag, TicketNumber, is_day
from projections.views.filter import (
    Between,
    Filter,
    Is,
    Not,
    all_of,
    has_day,
    has_field,
    is_breached,
    is_due_before,
    is_of,
    is_solved,
    is_spam,
    says,
)

QUERY_CHARACTERS = 1_000
QUERY_TERMS = 100
_TERM = re.compile(
    r"""(?P<negated>-)?
        (?:(?P<key>[A-Za-z_][A-Za-z0-9_.]*)(?P<op>>=|<=|[:<>]))?
        (?:"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<plain>[^\s"]+))
        (?=\s|$)
        |\S+  # a stray quote or hyphen, or nothing behind a key
    """,
    re.VERBOSE,
)
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
_TAG: TypeAdapter[str] = TypeAdapter(Tag)
_NUMBER: TypeAdapter[str] = TypeAdapter(TicketNumber)
_KEY: TypeAdapter[str] = TypeAdapter(FieldKey)
_PRIORITIES: tuple[Priority, ...] = get_args(Priority)
_IS = {
    "solved": is_solved(True),
    "unsolved": is_solved(False),
    "breached": is_breached(True),
    "spam": is_spam(True),
}


class BadQuery(Unacceptable):
    """A search cannot be understood: for example `stauts:open`. `at`: the place, from 1."""

    pointer = "query q"

    def __init__(self, at: int, why: str) -> None:
        super().__init__("bad_query", f"at {at}: {why}")


@dataclass(frozen=True, slots=True)
class _Term:
    """One term without its `-`. `key` is empty for words; `at` is its place in the text, from 1;
    `zone`: whose days are meant.
    """

    key: str
    op: str
    value: str
    quoted: bool
    at: int
    zone: str

    def bad(self, why: str) -> BadQuery:
        return BadQuery(self.at, why)

    def one_of(self, known: Sequence[str], value: str) -> str:
        """Return a value that is known. Raises BadQuery."""
        if value not in known:
            raise self.bad(f"{self.key} is one of {', '.join(known)}, not {value!r}")
        return value

    def some_of(self, known: Sequence[str]) -> tuple[str, ...]:
        """Return values with commas between, all of them known. Raises BadQuery."""
        return tuple(self.one_of(known, value) for value in self.value.split(","))

    def valid(self, adapter: TypeAdapter[str], value: str, why: str) -> str:
        """Return a value that an adapter takes. Raises BadQuery."""
        try:
            return adapter.validate_python(value)
        except ValidationError as error:
            raise self.bad(why) from error

    def span(self) -> tuple[datetime, datetime]:
        """Return the value as a span of time. Raises BadQuery."""
        try:
            return span(self.value, self.zone)
        except ValueError as error:
            why = f"{self.key} takes a time like 2026-03-01 or 2026-03-01T12:00:00Z"
            raise self.bad(why) from error


def search(text: str, zone: str = "UTC") -> Filter:
    """Return the filter that a search asks for, by days of a time zone. Raises BadQuery."""
    if len(text) > QUERY_CHARACTERS:
        raise BadQuery(QUERY_CHARACTERS + 1, f"at most {QUERY_CHARACTERS} characters are read")
    found, terms = Filter(), 0
    for terms, match in enumerate(_TERM.finditer(text), 1):
        at = match.start() + 1
        key, op, plain, quoted = match.group("key", "op", "plain", "quoted")
        value = re.sub(r"\\(.)", r"\1", quoted) if quoted is not None else plain or match[0]
        of_term = _filter(_Term((key or "").lower(), op or "", value, quoted is not None, at, zone))
        if of_term.terms and match["negated"]:
            of_term = all_of(Not(of_term))
        found &= of_term
        if terms > QUERY_TERMS:
            raise BadQuery(at, f"at most {QUERY_TERMS} terms are read")
    if terms and not found.terms:
        raise BadQuery(1, f"there is no word in {text!r}")
    return found


def _filter(term: _Term) -> Filter:
    takes, read = _KEYS.get(_FIELD if term.key.startswith("field.") else term.key, ((), None))
    if read is None:
        if hint := did_you_mean(term.key, filter(None, _KEYS)):
            why = f'unknown key {term.key!r}{hint} Put text in quotes: "{term.key}{term.op}..."'
            raise term.bad(why)
        return says(f"{term.key}{term.op}{term.value}")
    if term.op not in takes:
        raise term.bad(f"{term.key} takes {' or '.join(takes)} only")
    return read(term)


def _words(term: _Term) -> Filter:
    is_prefix = not term.quoted and term.value.endswith("*")
    return says(term.value, is_prefix=is_prefix)


def _status(term: _Term) -> Filter:
    return all_of(Is("status", term.some_of(get_args(Status))))


def _priority(term: _Term) -> Filter:
    if term.op == ":":
        return all_of(Is("priority", term.some_of(_PRIORITIES)))
    rank = _PRIORITIES.index(term.one_of(_PRIORITIES, term.value))
    end = rank + (term.op in (">", "<="))
    return all_of(Is("priority", _PRIORITIES[:end] if "<" in term.op else _PRIORITIES[end:]))


def _name(term: _Term) -> Filter:
    is_nobody = term.value == "none" and not term.quoted and term.key != "requester"
    name = None if is_nobody else term.value
    return all_of(Is("group", (name,)) if term.key == "group" else is_of(term.key, name))


def _tag(term: _Term) -> Filter:
    return all_of(Is("tags", (term.valid(_TAG, term.value, "a tag is like paper, floor-3 or 紙"),)))


def _number(term: _Term) -> Filter:
    number = term.valid(_NUMBER, term.value, "a number is like C-1042")
    return all_of(Is("number", (number,)))


def _is(term: _Term) -> Filter:
    if term.value not in _IS:
        raise term.bad(f"is takes one of {', '.join(_IS)}, not {term.value!r}")
    return all_of(_IS[term.value])


def _has(term: _Term) -> Filter:
    term.one_of(("note",), term.value)
    return all_of(Is("has_note", (True,)))


def _due(term: _Term) -> Filter:
    first, behind = term.span()
    return is_due_before(first if term.op == "<" else behind)


def _time(term: _Term) -> Filter:
    first, behind = term.span()
    low = {":": first, ">": behind, ">=": first}.get(term.op)
    high = {":": behind, "<": first, "<=": behind}.get(term.op)
    return all_of(Between(f"{term.key}_at", low, high))


def _field(term: _Term) -> Filter:
    name = term.key.removeprefix("field.")
    key = term.valid(_KEY, name, f"{name!r} is no name of a field")
    if term.op == ":":
        return has_field(key, term.value)
    if not is_day(term.value):
        raise term.bad(f"{term.key} is compared with a day like 2026-03-01")
    return has_day(key, term.op, term.value)


_FIELD = "field.<key>"
_ONE, _ANY = (":",), (":", ">", ">=", "<", "<=")
_KEYS: Mapping[str, tuple[tuple[str, ...], Callable[[_Term], Filter]]] = {
    "": (("",), _words),
    "status": (_ONE, _status),
    "priority": (_ANY, _priority),
    **dict.fromkeys(("group", "assignee", "requester"), (_ONE, _name)),
    "number": (_ONE, _number),
    "tag": (_ONE, _tag),
    "is": (_ONE, _is),
    "has": (_ONE, _has),
    "due": (("<", "<="), _due),
    **dict.fromkeys(("opened", "updated", "resolved"), (_ANY, _time)),
    _FIELD: (_ANY, _field),
}
"""By key: the operators that it takes, and what makes a filter of it."""
_VALUES: Mapping[str, Sequence[str]] = {
    "status": get_args(Status),
    "priority": _PRIORITIES,
    "is": tuple(_IS),
    "has": ("note",),
    **dict.fromkeys(("group", "assignee"), ("none",)),
}
COMPLETIONS: JsonDict = {
    key: {"operators": list(takes), "values": list(_VALUES.get(key, ()))}
    for key, (takes, _) in _KEYS.items()
    if key
}
"""What a search can be completed with: by key, its operators, and the values that are known."""


def span(text: str, zone: str = "UTC") -> tuple[datetime, datetime]:
    """Return the first moment of a day of a time zone, or of a millisecond, and the first behind.

    Raises ValueError.
    """
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            day = date.fromisoformat(text)
            return begins(zone, day), ends(zone, day)
        moment = _MOMENT.validate_python(text)
        return moment, moment + timedelta(milliseconds=1)
    except (ValidationError, OverflowError) as error:
        raise ValueError(text) from error
