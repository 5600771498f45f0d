"""How events are stored and read (L10)."""

import pytest

from domain.errors import HistoryError
from domain.tickets import EVENT_TYPES, decode, encode
from domain.values import JsonObject
from tests.golden_events import digest, example, golden


@pytest.mark.parametrize("stored", golden(), ids=lambda s: f"{s['type']}-{s['schema']}")
def test_every_shape_ever_written_can_be_read(stored):
    """L10: and what was written in today's shape is written the same again."""
    event = decode(stored["type"], stored["schema"], stored["data"])
    assert type(event).__name__ == stored["type"]
    if stored["schema"] == event.schema:
        type_, schema, data, _ = encode(event, "bob")
        assert {"type": type_, "schema": schema, "data": data, "digest": stored["digest"]} == stored


ROUND_THE_CLOCK: JsonObject = {"next_response_minutes": None, "calendar": None}
NO_PROMISE: JsonObject = {"first_response_minutes": None, "resolution_minutes": None}
ADDED: dict[tuple[str, int], JsonObject] = {
    ("TicketOpened", 1): {"sla": NO_PROMISE, "internal_fields": [], "number": None},
    ("TicketOpened", 2): {"internal_fields": [], "number": None},
    ("TicketOpened", 3): {"number": None},
    ("TicketOpened", 4): {},
    ("PriorityChanged", 1): {"sla": NO_PROMISE},
    ("PriorityChanged", 2): {},
    ("AgentReplied", 1): {"automatic": False},
    ("RequesterReplied", 1): {"automatic": False},
    ("TicketClosed", 1): {},
    ("FieldSet", 1): {"is_internal": False},
    ("FileAttached", 1): {"is_internal": False},
    ("MessageRedacted", 1): {"same_command": []},
}


def test_what_an_older_event_does_not_say_is_what_was_so_then():
    """L10: no promise or one round the clock, no automatic reply, and nothing internal of what
    could be.
    """
    stored = [line for line in golden() if line["schema"] < EVENT_TYPES[line["type"]].schema]
    assert {(line["type"], line["schema"]) for line in stored} == ADDED.keys()
    for line in stored:
        event = decode(line["type"], line["schema"], line["data"])
        expected = {**line["data"], **ADDED[line["type"], line["schema"]]}
        if "sla" in expected:
            expected["sla"] = {**expected["sla"], **ROUND_THE_CLOCK}
        assert encode(event, "bob").data == expected


def test_the_golden_file_holds_every_schema_of_every_event():
    """L10: a new shape cannot be forgotten there: `python -m tests.golden_events` adds it."""
    written = {(s["type"], s["schema"]) for s in golden()}
    known = {(n, s) for n, cls in EVENT_TYPES.items() for s in range(1, cls.schema + 1)}
    assert written == known


def test_no_line_of_the_golden_file_was_changed_or_taken_away():
    """L10: logs hold what stands there."""
    last = ""
    for line in golden():
        found = line.pop("digest")
        last = digest(last, line)
        assert found == last, line


@pytest.mark.parametrize("cls", EVENT_TYPES.values())
def test_a_line_can_be_made_for_any_event(cls):
    event = example(cls)
    assert decode(*encode(event, "bob")[:3]) == event


def test_every_old_schema_has_an_upcaster():
    """L10: each former schema has the step to the next."""
    assert all(len(cls.upcasters) == cls.schema - 1 for cls in EVENT_TYPES.values())


@pytest.mark.parametrize(
    ("name", "schema", "data", "code"),
    [
        ("TicketExploded", 1, {}, "unknown_event_type"),
        ("TicketAssigned", 0, {"assignee": "a"}, "unknown_event_schema"),
        ("TicketAssigned", 99, {"assignee": "a"}, "unknown_event_schema"),
        ("TicketAssigned", 1, {}, "unreadable_event"),
        ("TicketAssigned", 1, {"assignee": "a", "mood": "good"}, "unreadable_event"),
    ],
)
def test_what_casebook_did_not_write_is_not_read(name, schema, data, code):
    with pytest.raises(HistoryError) as caught:
        decode(name, schema, data)
    assert caught.value.code == code
    assert name in caught.value.detail


def test_stored_data_is_json_without_floats():
    """L11: what is hashed must not depend on how a library prints numbers."""

    def values(of):
        inner = of.values() if isinstance(of, dict) else of if isinstance(of, list) else []
        yield of
        for one in inner:
            yield from values(one)

    for stored in golden():
        event = decode(stored["type"], stored["schema"], stored["data"])
        for value in values(encode(event, "bob").data):
            assert isinstance(value, str | int | bool | None | list | dict)
