"""The stored form of an event and its hash chain (L11)."""

import hashlib
import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.actors import Actor
from domain.codec import EventData
from domain.errors import HistoryError
from eventstore.event_document import (
    EMPTY,
    CommandRef,
    Envelope,
    Metadata,
    chain_is_whole,
    chained,
    content_hash,
    from_document,
    to_document,
    whole_milliseconds,
)

TICKET = UUID("0190a5a0-0000-7000-8000-000000000001")
AT = datetime(2026, 3, 1, 12, 0, 0, 123000, tzinfo=UTC)
ABOUT = Metadata(Actor("Zoë", "agent"), CommandRef("k-1", "ab" * 32), "corr", None)


def stream(n: int) -> list[Envelope]:
    events = [EventData("Happened", 1, {"n": i, "text": "ä\u2028😀", "b": None}) for i in range(n)]
    return chained(TICKET, EMPTY, events, ABOUT, AT, AT + timedelta(seconds=1))


def canonical(document: dict[str, Any]) -> bytes:
    """The canonical form, written again from its description with another JSON library."""

    def milliseconds(at: datetime) -> int:
        return round(at.timestamp() * 1000)

    return json.dumps(
        {
            "id": str(document["_id"]),
            "ticket_id": str(document["ticket_id"]),
            **{k: document[k] for k in ("version", "type", "schema", "data", "actor", "command")},
            **{k: document[k] for k in ("correlation_id", "causation_id")},
            "occurred_at": milliseconds(document["occurred_at"]),
            "recorded_at": milliseconds(document["recorded_at"]),
            "previous": document["previous"].hex() if document["previous"] else None,
        },
        sort_keys=True,
        separators=(",", ":"),
        ensure_ascii=False,
    ).encode()


def test_the_hash_is_what_its_description_says():
    """L11: anyone can check it without this code."""
    previous = None
    for envelope in stream(3):
        assert envelope.previous == previous
        document = to_document(envelope)
        assert envelope.hash == hashlib.sha256(canonical(dict(document))).digest()
        previous = envelope.hash


def test_versions_continue_the_stream():
    """L2: 1..n, continued from the head that was read."""
    assert [e.version for e in stream(3)] == [1, 2, 3]


@given(st.integers(0, 3), st.sampled_from(sorted(to_document(stream(1)[0]).keys() - {"hash"})))
def test_every_stored_field_is_covered(index, name):
    """L11: whatever is changed in an event, it shows."""
    other: dict[str, object] = {
        "_id": TICKET,
        "ticket_id": UUID(int=1),
        "version": 7,
        "type": "Other",
        "schema": 2,
        "data": {"n": 99},
        "occurred_at": AT + timedelta(milliseconds=1),
        "recorded_at": AT + timedelta(hours=1),
        "actor": {"id": "mallory", "role": "agent"},
        "command": {"id": "k-2", "fingerprint": "ab" * 32},
        "correlation_id": None,
        "causation_id": "x",
        "previous": b"\x01" * 32,
    }
    events = stream(4)
    document = {**to_document(events[index]), name: other[name]}
    forged = [*events[:index], from_document(document), *events[index + 1 :]]  # type: ignore[arg-type]
    assert chain_is_whole(map(to_document, events))
    assert not chain_is_whole(map(to_document, forged))


def test_removing_swapping_and_inserting_show():
    """L11: in the middle of a stream; its end is for checkpoints to guard."""
    a, b, c, d = stream(4)
    for forged in (
        [a, c, d],
        [b, c, d],
        [a, c._replace(version=2), b._replace(version=3), d],
        [a, b, b._replace(version=3), c._replace(version=4)],
    ):
        assert not chain_is_whole(map(to_document, forged))


def test_a_forger_who_rehashes_one_event_breaks_the_next():
    """L11: each hash holds the one before it."""
    a, b, c = stream(3)
    edited = b._replace(data={"n": 99})
    rehashed = edited._replace(hash=content_hash(to_document(edited)))
    assert chain_is_whole(map(to_document, [a, rehashed]))
    assert not chain_is_whole(map(to_document, [a, rehashed, c]))


def test_a_document_reads_back_as_the_envelope():
    for envelope in stream(2):
        assert from_document(to_document(envelope)) == envelope


def test_a_document_of_another_shape_is_refused():
    with pytest.raises(HistoryError):
        from_document({"_id": TICKET})  # type: ignore[typeddict-item]


def test_times_are_utc_in_whole_milliseconds():
    local = datetime(2026, 3, 1, 14, 0, 0, 123999, tzinfo=timezone(timedelta(hours=2)))
    assert whole_milliseconds(local) == AT
