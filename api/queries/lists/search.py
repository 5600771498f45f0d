"""The search language of lists: `status:open priority>=high assignee:none printer jam`.

    query   terms with spaces between; all must hold
    term    [-] key op value  |  [-] word  |  [-] "some words"        (- : it must not hold)
    op      :   and for priority and times also  >  >=  <  <=
    value   a word, or text in double quotes, in which \\" and \\\\ stand for " and \\

A word is looked for among the words of subject and body, whatever its case and accents; `print*`
finds those that begin so. What a client writes ends up in values of a condition, never in its
operators or names.

Pure: text in, terms out, conditions out. What cannot be understood is told with its place.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, time, timedelta
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from domain.errors import Unacceptable
from domain.events import FieldValue, JsonObject, Priority, Status
from domain.values import FieldKey, Moment, Tag
from projections.views.dashboard import UNSOLVED
from projections.views.tickets import field_term, words

QUERY_CHARACTERS = 1_000
QUERY_TERMS = 30
_NONE = "none"
_ONE_DAY = timedelta(days=1)
_TERM = re.compile(
    r"""(?P<negated>-)?
        (?:(?P<key>[A-Za-z_][A-Za-z0-9_.]*)(?P<op>>=|<=|[:<>]))?
        (?:"(?P<quoted>(?:[^"\\]|\\["\\])*)"|(?P<plain>[^\s"]+))?
        (?=\s|$)""",
    re.VERBOSE,
)
_MOMENT: TypeAdapter[datetime] = TypeAdapter(Moment)
_TAG: TypeAdapter[str] = TypeAdapter(Tag)
_KEY: TypeAdapter[str] = TypeAdapter(FieldKey)
_TIMES = {
    "opened": "opened_at",
    "updated": "updated_at",
    "resolved": "resolved_at",
}
_NAMES = ("group", "assignee", "requester")
_PRIORITIES: tuple[Priority, ...] = get_args(Priority)
_IS = ("solved", "unsolved", "breached")
_KNOWN = (
    *("status", "priority", *_NAMES, "tag", "is", "has", "due", *_TIMES),
    "field.<key>",
)


class BadQuery(Unacceptable):
    """A search cannot be understood: for example `stauts:open`. `at`: the place, from 1."""

    pointer = "query q"

    def __init__(self, at: int, why: str) -> None:
        super().__init__("bad_query", f"at {at}: {why}")


@dataclass(frozen=True, slots=True)
class Term:
    """One term. `key` is empty for words; `at` is its place in the text, from 1."""

    key: str
    op: str
    value: str
    quoted: bool
    negated: bool
    at: int = field(default=0, compare=False)

    def __str__(self) -> str:
        escaped = re.sub(r'(["\\])', r"\\\1", self.value)
        value = f'"{escaped}"' if self.quoted else self.value
        return f"{'-' if self.negated else ''}{self.key}{self.op}{value}"


def parse(text: str) -> tuple[Term, ...]:
    """Read a search. Raises BadQuery."""
    if len(text) > QUERY_CHARACTERS:
        raise BadQuery(QUERY_CHARACTERS + 1, f"at most {QUERY_CHARACTERS} characters are read")
    terms: list[Term] = []
    place = 0
    while (place := _next_place(text, place)) < len(text):
        found = _TERM.match(text, place)
        if found is None:
            raise BadQuery(place + 1, _what_is_wrong(text[place:]))
        quoted, plain = found["quoted"], found["plain"]
        if quoted is None and plain is None:
            told = f"{found['key']}{found['op']}" if found["key"] else "-"
            raise BadQuery(found.end() + 1, f"{told} needs something behind it")
        value = plain if quoted is None else re.sub(r"\\(.)", r"\1", quoted)
        terms.append(
            Term(
                key=(found["key"] or "").lower(),
                op=found["op"] or "",
                value=value,
                quoted=quoted is not None,
                negated=found["negated"] is not None,
                at=place + 1,
            )
        )
        if len(terms) > QUERY_TERMS:
            raise BadQuery(place + 1, f"at most {QUERY_TERMS} terms are read")
        place = found.end()
    return tuple(terms)


def _next_place(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def _what_is_wrong(rest: str) -> str:
    if rest.count('"') % 2:
        return "a quote is not closed"
    return 'a quote stands where none can: write key:"some words", with a space behind'


def conditions(terms: Sequence[Term]) -> list[JsonObject]:
    """Give the database's conditions on read documents; all must hold. Raises BadQuery."""
    found: list[JsonObject] = []
    for term in terms:
        of_term = _condition(term)
        if term.negated:  # not all of them together
            of_term = [{"$nor": of_term if len(of_term) == 1 else [{"$and": of_term}]}]
        found += of_term
    return found


def _condition(term: Term) -> list[JsonObject]:
    match term.key:
        case "":
            return _words(term)
        case "status":
            return [_one_of(term, "status", get_args(Status))]
        case "priority":
            return [_priority(term)]
        case "group" | "assignee" | "requester":
            _must_be(term, ":")
            nobody = term.value == _NONE and not term.quoted and term.key != "requester"
            return [{term.key: None if nobody else term.value}]
        case "tag":
            _must_be(term, ":")
            return [{"tags": _valid(term, _TAG, "a tag is like paper or floor-3")}]
        case "is":
            _must_be(term, ":")
            return [_is(term)]
        case "has":
            _one_of(term, "has", ("note",))
            return [{"has_note": True}]
        case "due":
            if term.op not in ("<", "<="):
                raise BadQuery(term.at, "due takes < or <=: due<2026-03-01T12:00:00Z")
            return due_before(_span(term)[0] if term.op == "<" else _span(term)[1])
        case key if key in _TIMES:
            return [_times(term, _TIMES[key])]
        case key if key.startswith("field."):
            _must_be(term, ":")
            name = key.removeprefix("field.")
            try:
                return [field_is(_KEY.validate_python(name), term.value)]
            except ValidationError as error:
                raise BadQuery(term.at, f"{name!r} is no name of a field") from error
        case key:
            known = ", ".join(_KNOWN)
            raise BadQuery(
                term.at, f'unknown key {key!r}; known are {known}; put words in quotes: "{key}..."'
            )


def _must_be(term: Term, op: str) -> None:
    if term.op != op:
        raise BadQuery(term.at, f"{term.key} takes {op} only")


def _words(term: Term) -> list[JsonObject]:
    if not term.quoted and term.value.endswith("*"):
        found = words(term.value.rstrip("*"))
        if len(found) != 1:
            raise BadQuery(term.at, "a word with * behind it must be one word: print*")
        # Not a regular expression: that would scan, and a range of an array needs $elemMatch.
        return [{"terms": {"$elemMatch": {"$gte": found[0], "$lt": found[0] + "\U0010ffff"}}}]
    found = words(term.value)
    if not found:
        raise BadQuery(term.at, f"there is no word in {term.value!r}")
    return [{"terms": word} for word in found]


def _one_of(term: Term, name: str, known: Sequence[str]) -> JsonObject:
    _must_be(term, ":")
    values = term.value.split(",")
    for value in values:
        if value not in known:
            raise BadQuery(term.at, f"{term.key} is one of {', '.join(known)}, not {value!r}")
    return {name: values[0] if len(values) == 1 else {"$in": values}}


def _priority(term: Term) -> JsonObject:
    if term.op == ":":
        return _one_of(term, "priority", _PRIORITIES)
    if term.value not in _PRIORITIES:
        known = ", ".join(_PRIORITIES)
        raise BadQuery(term.at, f"priority is one of {known}, not {term.value!r}")
    rank = _PRIORITIES.index(term.value)
    takes: Callable[[int], bool] = {
        ">": lambda n: n > rank,
        ">=": lambda n: n >= rank,
        "<": lambda n: n < rank,
        "<=": lambda n: n <= rank,
    }[term.op]
    return {"priority": {"$in": [p for n, p in enumerate(_PRIORITIES) if takes(n)]}}


def _is(term: Term) -> JsonObject:
    match term.value:
        case "solved":
            return solved(True)
        case "unsolved":
            return solved(False)
        case "breached":
            return breached(True)
        case value:
            raise BadQuery(term.at, f"is takes one of {', '.join(_IS)}, not {value!r}")


def _times(term: Term, name: str) -> JsonObject:
    first, behind = _span(term)
    match term.op:
        case ":":
            return {name: {"$gte": first, "$lt": behind}}
        case ">":
            return {name: {"$gte": behind}}
        case ">=":
            return {name: {"$gte": first}}
        case "<":
            return {name: {"$lt": first}}
        case _:
            return {name: {"$lt": behind}}


def _span(term: Term) -> tuple[datetime, datetime]:
    """Give the first moment of a day, or of a millisecond, and the first behind it."""
    try:
        return span(term.value)
    except ValueError as error:
        raise BadQuery(
            term.at, f"{term.key} takes a time like 2026-03-01 or 2026-03-01T12:00:00Z"
        ) from error


def _valid(term: Term, adapter: TypeAdapter[str], told: str) -> str:
    try:
        return adapter.validate_python(term.value)
    except ValidationError as error:
        raise BadQuery(term.at, told) from error


# --- conditions that parameters of lists give as well ---------------------------------------------


def span(text: str) -> tuple[datetime, datetime]:
    """Give the first moment of a day or of a millisecond, and the first behind it.

    Raises ValueError.
    """
    try:
        if re.fullmatch(r"\d{4}-\d\d-\d\d", text, re.ASCII):
            midnight = datetime.combine(date.fromisoformat(text), time.min, UTC)
            return midnight, midnight + _ONE_DAY
        moment = _MOMENT.validate_python(text)
        return moment, moment + timedelta(milliseconds=1)
    except (ValidationError, OverflowError) as error:
        raise ValueError(text) from error


def solved(yes: bool) -> JsonObject:
    """Resolved and closed tickets, or all others."""
    those = [s for s in get_args(Status) if (s not in UNSOLVED) == yes]
    return {"status": {"$in": those}}


def breached(yes: bool) -> JsonObject:
    """Tickets of which a promise was missed, or all others."""
    missed: JsonObject = {"sla_breached": {"$in": ["first_response", "resolution"]}}
    return missed if yes else {"$nor": [missed]}


def due_before(moment: datetime) -> list[JsonObject]:
    """Tickets of which a promise runs out before a moment, and has not been put on record."""
    ends: list[JsonObject] = [
        {f"{target}_due_at": {"$lt": moment}, "sla_breached": {"$ne": target}}
        for target in ("first_response", "resolution")
    ]
    return [{"next_due_at": {"$lt": moment}}, {"$or": ends}]


def field_is(key: str, value: str) -> JsonObject:
    """Tickets whose custom field has a value, as text, number or truth."""
    values: list[FieldValue] = [value]
    if re.fullmatch(r"-?\d{1,19}", value, re.ASCII) and -(2**63) <= int(value) < 2**63:
        values.append(int(value))
    if value in ("true", "false"):
        values.append(value == "true")
    return {"terms": field_term(key, value), f"fields.{key}": {"$in": values}}
