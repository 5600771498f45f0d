"""Which tickets: the one filter that lists, searches, saved views and webhooks share.

A filter is terms that must all hold. It answers in two ways that agree: `matches` for a document at
hand, and `condition` for the database. What a client sends becomes a value in a condition, never an
operator or the name of a field.

A document is a mapping of the fields of `ticket_reads`: one that was read, or `tickets.values` of a
ticket that is being folded. As in MongoDB, a term about an array holds if it does for an element.
"""

import re
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from operator import ge, lt
from typing import Generic, TypeVar, get_args

from domain.sla import SlaTarget
from domain.tickets.ticket import UNSOLVED, Status
from domain.values import FieldValue, JsonObject, canonical_decimal, one_spelling
from eventstore.documents import Document
from projections.views.tickets import field_term
from projections.views.words import QueryTerm, query_terms

Bound = TypeVar("Bound", datetime, str)


@dataclass(frozen=True, slots=True)
class Is:
    """The field has one of these values; None stands for none at all."""

    field: str
    values: tuple[object, ...]

    def matches(self, document: Document) -> bool:
        plain = document.get(self.field)
        if isinstance(plain, str):  # as most are: each event asks each saved view
            return plain in self.values
        return any(
            found == value and isinstance(found, bool) == isinstance(value, bool)
            for found in _values(document, self.field)
            for value in self.values
        )

    def condition(self) -> JsonObject:
        return {self.field: self.values[0] if len(self.values) == 1 else {"$in": [*self.values]}}


@dataclass(frozen=True, slots=True)
class Between(Generic[Bound]):
    """The field is a time, or a text, from `low` on and before `high`, of which one at least is
    given. Of several texts, each bound holds for one.
    """

    field: str
    low: Bound | None = None
    high: Bound | None = None

    def matches(self, document: Document) -> bool:
        values = _values(document, self.field)
        return all(
            any(isinstance(found, type(bound)) and holds(found, bound) for found in values)
            for holds, bound in ((ge, self.low), (lt, self.high))
            if bound is not None
        )

    def condition(self) -> JsonObject:
        bounds = {"$gte": self.low, "$lt": self.high}
        return {self.field: {op: bound for op, bound in bounds.items() if bound is not None}}


@dataclass(frozen=True, slots=True)
class BeginsWith:
    """An element of the field, an array of words, begins with a prefix."""

    field: str
    prefix: str

    def matches(self, document: Document) -> bool:
        return any(str(found).startswith(self.prefix) for found in _values(document, self.field))

    def condition(self) -> JsonObject:
        # Not a regular expression: that would scan, and a range of an array needs $elemMatch.
        bounds = {"$gte": self.prefix, "$lt": self.prefix + "\U0010ffff"}
        return {self.field: {"$elemMatch": bounds}}


@dataclass(frozen=True, slots=True)
class Contains:
    """A word among the elements of the field has a text in it.

    No index bounds it: terms beside it say which documents to look at.
    """

    field: str
    text: str

    def matches(self, document: Document) -> bool:
        words = map(str, _values(document, self.field))
        return any(self.text in word and not word.startswith("=") for word in words)

    def condition(self) -> JsonObject:
        # Not in values of custom fields, of which each is an element like `=floor=3`.
        return {self.field: {"$regex": f"^[^=]*{re.escape(self.text)}"}}


@dataclass(frozen=True, slots=True)
class Not:
    """The filter does not match."""

    filter: "Filter"

    def matches(self, document: Document) -> bool:
        return not self.filter.matches(document)

    def condition(self) -> JsonObject:
        return {"$nor": [self.filter.condition()]}


@dataclass(frozen=True, slots=True)
class AnyOf:
    """One of the filters matches."""

    filters: tuple["Filter", ...]

    def matches(self, document: Document) -> bool:
        return any(each.matches(document) for each in self.filters)

    def condition(self) -> JsonObject:
        return {"$or": [each.condition() for each in self.filters]}


OfField = Is | Between[datetime] | Between[str] | BeginsWith | Contains
Term = OfField | Not | AnyOf


@dataclass(frozen=True, slots=True)
class Filter:
    """Terms that must all hold."""

    terms: tuple[Term, ...] = ()

    def matches(self, document: Document) -> bool:
        """Return whether a document matches; the database says the same of `condition`."""
        return all(term.matches(document) for term in self.terms)

    def condition(self) -> JsonObject:
        """Return the database's filter."""
        each = [term.condition() for term in self.terms]
        return {"$and": each} if len(each) > 1 else each[0] if each else {}

    def fields(self) -> Iterator[str]:
        """Yield the names of all fields that it is about."""
        for term in self.terms:
            match term:
                case Not(inner):
                    yield from inner.fields()
                case AnyOf(filters):
                    for inner in filters:
                        yield from inner.fields()
                case _:
                    yield term.field

    def mapped(self, change: Callable[[OfField], Term]) -> "Filter":
        """Return the filter with each term about a field changed, wherever it stands."""
        return Filter(tuple(_mapped(term, change) for term in self.terms))

    def __and__(self, other: "Filter") -> "Filter":
        return Filter((*self.terms, *other.terms))


def _mapped(term: Term, change: Callable[[OfField], Term]) -> Term:
    match term:
        case Not(inner):
            return Not(inner.mapped(change))
        case AnyOf(filters):
            return AnyOf(tuple(each.mapped(change) for each in filters))
        case _:
            return change(term)


def all_of(*terms: Term) -> Filter:
    """Return the filter of some terms."""
    return Filter(terms)


def _values(document: Document, path: str) -> Collection[object]:
    name, _, key = path.partition(".")
    value = document.get(name)
    if key:
        value = value.get(key) if isinstance(value, Mapping) else None
    return value if isinstance(value, list | tuple) else (value,)


# --- what can be asked for ----------------------------------------------------------------------


def named(conditions: Mapping[str, object]) -> Filter:
    """Return the filter of conditions as clients name them, in lists and in saved views alike.

    Null is no condition, and neither is an empty list. Of a list, one value must be the ticket's;
    of tags, all. `group`, `assignee`: "" for tickets that have none. Other names say nothing here.
    """
    terms: list[Term] = []
    for name, value in conditions.items():
        values = tuple(value) if isinstance(value, list) else () if value is None else (value,)
        match name:
            case _ if not values:
                continue
            case "status" | "priority" | "number":
                terms.append(Is(name, values))
            case "group":
                terms.append(Is(name, (value or None,)))
            case "assignee" | "requester":
                terms.append(is_of(name, str(value) or None))
            case "tag":
                terms += [Is("tags", (tag,)) for tag in values]
            case "solved":
                terms.append(is_solved(value is True))
            case "breached":
                terms.append(is_breached(value is True))
            case "spam":
                terms.append(is_spam(value is True))
    return Filter(tuple(terms))


def without_spam(asked: Filter) -> Filter:
    """Return the filter of a list that asks for some tickets: without spam, unless it says itself
    what of that it wants or names a ticket. A list of tickets that are not closed has none in any
    case.
    """
    states = [
        term.values for term in asked.terms if isinstance(term, Is) and term.field == "status"
    ]
    if not {"close_reason", "number"}.isdisjoint(asked.fields()) or any(
        "closed" not in each for each in states
    ):
        return asked
    return asked & all_of(is_spam(False))


def is_of(field: str, name: str | None) -> Is:
    """Return the term for tickets of a person, however their name is spelled; None: of nobody."""
    return Is(field, (None if name is None else one_spelling(name),))


def is_solved(yes: bool) -> Is:
    """Return the term for resolved and closed tickets, or for all others."""
    return Is("status", tuple(s for s in get_args(Status) if (s not in UNSOLVED) == yes))


def is_breached(yes: bool) -> Term:
    """Return the term for tickets of which a promise was missed, or for all others."""
    missed = Is("sla_breached", get_args(SlaTarget))
    return missed if yes else Not(all_of(missed))


def is_spam(yes: bool) -> Term:
    """Return the term for tickets that were closed as spam, or for all others."""
    spam = Is("close_reason", ("spam",))
    return spam if yes else Not(all_of(spam))


def is_due_before(moment: datetime) -> Filter:
    """Return the filter for tickets of which a promise runs out before a moment, and has not been
    put on record as missed.
    """
    return all_of(Between("due_at", high=moment))


def says(text: str, *, is_prefix: bool = False) -> Filter:
    """Return the filter for tickets in which all words of a text are; empty if it has none.

    `is_prefix`: instead of the last one, words that begin with it.
    """
    return Filter(tuple(_term_of(word) for word in query_terms(text, is_prefix=is_prefix)))


def _term_of(word: QueryTerm) -> Term:
    match word.how:
        case "is":
            return Is("terms", (word.text,))
        case "begins":
            return BeginsWith("terms", word.text)
        case "contains":
            return Contains("terms", word.text)


def has_field(key: str, text: str) -> Filter:
    """Return the filter for tickets whose custom field has a value, or it among several: as text,
    number or truth; a decimal in whatever form.
    """
    number = canonical_decimal(text)
    texts = tuple(dict.fromkeys((text, number or text)))
    values: list[FieldValue] = [*texts]
    if re.fullmatch(r"-?\d{1,19}", text, re.ASCII) and -(2**63) <= int(text) < 2**63:
        values.append(int(text))
    if text in ("true", "false"):
        values.append(text == "true")
    terms = tuple(field_term(key, each) for each in texts)
    return all_of(Is("terms", terms), Is(f"fields.{key}", tuple(values)))


def has_day(key: str, op: str, day: str) -> Filter:
    """Return the filter for tickets whose custom field is a day before or after one; `op`: how."""
    behind = f"{day}~"  # behind it and before the next: days are compared as texts
    low = {">": behind, ">=": day}.get(op)
    high = {"<": day, "<=": behind}.get(op)
    return all_of(BeginsWith("terms", field_term(key, "")), Between(f"fields.{key}", low, high))
