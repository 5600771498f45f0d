"""The number of what is folded: views of another number are built anew (decision 14)."""

from copy import deepcopy
from datetime import timedelta
from hashlib import sha256
from uuid import UUID

import orjson

from domain.codec import EventData
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, chained
from projections.views import tickets
from tests.golden_events import golden
from tests.spec import ALICE, BOB, NOW

SHAPED_BY = 56
"""So many golden lines there were at this number. Events that came later are in no stored view."""


def stories():
    """Yield lives of tickets: each event on one as it was opened, and all on one as others have
    left it.
    """
    lines = golden()[:SHAPED_BY]
    openings = [line for line in lines if line["type"] == "TicketOpened"]
    others = [line for line in lines if line not in openings]
    lives = [[opening, *others, *others] for opening in openings]
    lives += [[openings[0], event] for event in others]
    for life in lives:
        head, envelopes = EMPTY, []
        for n, line in enumerate(life):
            event = EventData(line["type"], line["schema"], line["data"])
            about = Metadata((ALICE, BOB)[n % 2], CommandRef("k", "f"))
            at = NOW + n * timedelta(hours=7)
            [envelope] = chained(UUID(int=7), head, [event], about, at, at)
            head = Head(envelope.version, envelope.hash)
            envelopes.append(envelope)
        yield envelopes


def test_a_change_of_what_is_folded_has_a_new_number():
    """If this fails: raise FOLD, and write the new digest and number of golden lines here.

    What is folded of every golden event, after every one of them, is the same to the letter.
    """
    digest = sha256()
    for story in stories():
        read = None
        for envelope in story:
            read = tickets.apply(read, envelope)
            document = tickets.to_document(read)
            digest.update(orjson.dumps(document, default=sorted, option=orjson.OPT_SORT_KEYS))
    assert (tickets.FOLD, digest.hexdigest()[:16]) == (21, "d9d4011eebdd7780")


def test_what_is_folded_from_a_copy_is_the_same_and_leaves_what_was_copied():
    """L7: what was read is folded from once more where the fold fails."""
    for story in stories():
        read = None
        for envelope in story:
            was, evolved = deepcopy(read), tickets.evolve(read, envelope)
            assert read == was
            read = tickets.apply(read, envelope)
            assert read == evolved


def with_fields(story):
    """Return a story in which a field's value becomes true, and then 1."""
    data = {"key": "vip"}
    last = story[-1]
    more = [
        last._replace(version=last.version + n, type="FieldSet", schema=1, data=data | {"value": v})
        for n, v in enumerate((True, 1), start=1)
    ]
    return [*story, *more]


def test_a_document_with_what_has_changed_is_the_document_of_the_fold():
    """L7: what an event does not touch is not written."""
    left_out = 0
    for story in stories():
        read = None
        for envelope in with_fields(story):
            was, read = read, tickets.evolve(read, envelope)
            if was is None:
                continue
            stored, document = tickets.to_document(was), tickets.to_document(read)
            written = tickets.changed(was, read, document)
            assert written["version"] == read.version
            # As text: True and 1 are two values.
            assert orjson.dumps(stored | written) == orjson.dumps(document)
            left_out += len(document) - len(written)
    assert left_out > 20 * sum(map(len, stories()))
