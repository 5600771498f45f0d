"""events.md: every event that a log can hold, with its fields and an example."""

import json
import re
import sys
from collections.abc import Iterable
from inspect import getdoc, getsource
from pathlib import Path

import orjson
from pydantic import TypeAdapter

from domain import people
from domain.codec import Codec, E, Event, Whose
from domain.tickets import CODEC, COMMANDS, EVENT_TYPES
from domain.tickets.promises import SlaChanged, promised_anew
from domain.tickets.ticket import TicketEvent
from scripts.reference.markdown import fenced, first_paragraph, listed, page, table
from scripts.reference.schema import Schema

_GOLDEN = Path(__file__).parents[2] / "tests" / "golden" / "events.ndjson"
_INTRODUCTION = """
The log holds events of tickets, and of persons who are erased. A name is stored for ever; a
shape that changes gets a higher schema number, and events of former ones are read as those of
today. `data` holds the fields below. What stands around it in the log, who did it, when and by
which command, and the hash, is in [The hash chain](../explanation/hash-chain.md).

*Sealed* fields are personal. They are stored encrypted, by the key of the person that is named
here, and read as `[erased]` once that person is erased
([personal data](../explanation/personal-data.md)). Webhooks and `GET /events` have all events.
"""
_MADE_BY = {SlaChanged.__name__: promised_anew.__name__}
"""The function of several commands that makes an event."""
_WHOSE = {Whose.REQUESTER: "by the requester's key", Whose.NAMED: "by the named person's key"}


def made() -> str:
    """Return the page."""
    parts = []
    for module in dict.fromkeys(cls.__module__ for cls in EVENT_TYPES.values()):
        name = module.rpartition(".")[2]
        parts += [f"## {name.capitalize()}", first_paragraph(sys.modules[module].__doc__)]
        for cls in EVENT_TYPES.values():
            if cls.__module__ == module:
                parts += [*_event(CODEC, cls), _example(cls.__name__)]
    parts += ["## Erasure", "The steps of a person's erasure, in a stream of their own."]
    for step in people.STEPS:
        parts += _event(people.CODEC, step)
    return page("Events", _INTRODUCTION, *parts)


def _event(codec: Codec[E], cls: type[E]) -> Iterable[str]:
    schema = Schema.model_validate(TypeAdapter(cls).json_schema(mode="serialization"))
    sealed = codec.personal_fields[cls.__name__]
    yield f"### {cls.__name__}"
    yield _documented(cls)
    yield "\n".join(f"- {line}" for line in _facts(cls))
    rows = (
        [f"`{name}`", _kind(each, schema), _WHOSE[sealed[name]] if name in sealed else ""]
        for name, each in schema.properties.items()
    )
    yield table(["field", "value", "sealed"], rows)


def _kind(field: Schema, within: Schema) -> str:
    if field.any_of:
        return " or ".join(dict.fromkeys(_kind(each, within) for each in field.any_of))
    if field.items is not None and field.items.name:
        return f"list of {_kind(field.items, within)}"
    if not field.name:
        return field.kind()
    inner = within.defs[field.name].properties
    return (
        f"object ({'; '.join(f'`{name}`: {_kind(each, within)}' for name, each in inner.items())})"
    )


def _facts(cls: type[Event]) -> Iterable[str]:
    former = "" if cls.schema == 1 else "; events of former schemas are read as this one"
    yield f"Schema {cls.schema}{former}."
    if issubclass(cls, TicketEvent):
        made = re.compile(rf"\b{_MADE_BY.get(cls.__name__, cls.__name__)}\(")
        by = [verb for verb, command in COMMANDS.items() if made.search(getsource(command))]
        yield f"Follows from {listed(by)}. Requesters {'do not ' if cls.internal else ''}see it."


def _documented(cls: type[Event]) -> str:
    text = getdoc(cls) or ""
    return "" if text.startswith(f"{cls.__name__}(") else text  # a dataclass has its signature


def _example(name: str) -> str:
    """Return the fullest of the golden events of a type's newest schema."""
    lines = map(orjson.loads, _GOLDEN.read_bytes().splitlines())
    shown = max((e["schema"], len(str(e["data"])), e["data"]) for e in lines if e["type"] == name)
    return fenced("json", json.dumps(shown[2])) if shown[2] else ""
