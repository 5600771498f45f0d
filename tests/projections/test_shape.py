"""The number of what is folded: views of another number are built anew (decision 14)."""

from datetime import timedelta
from hashlib import sha256
from uuid import UUID

import orjson

from domain.codec import EventData
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, chained
from projections.views import tickets
from tests.golden_events import golden
from tests.spec import ALICE, BOB, NOW

SHAPED_BY = 37
"""So many golden lines there were at this number. Events that came later are in no stored view."""


def test_a_change_of_what_is_folded_has_a_new_number():
    """If this fails: raise SHAPE, and write the new digest and number of golden lines here.

    What is folded of every golden event, after every one of them, is the same to the letter.
    """
    lines = golden()[:SHAPED_BY]
    openings = [line for line in lines if line["type"] == "TicketOpened"]
    others = [line for line in lines if line not in openings]
    digest = sha256()
    # Each event on a ticket as it was opened, and all of them on a ticket as others have left it.
    stories = [[opening, *others, *others] for opening in openings]
    stories += [[openings[0], event] for event in others]
    for story in stories:
        events = [EventData(line["type"], line["schema"], line["data"]) for line in story]
        read, head = None, EMPTY
        for n, event in enumerate(events):
            about = Metadata((ALICE, BOB)[n % 2], CommandRef("k", "f"))
            at = NOW + n * timedelta(hours=7)
            [envelope] = chained(UUID(int=7), head, [event], about, at, at)
            head = Head(envelope.version, envelope.hash)
            read = tickets.apply(read, envelope)
            document = tickets.to_document(read)
            digest.update(orjson.dumps(document, default=sorted, option=orjson.OPT_SORT_KEYS))
    assert (tickets.SHAPE, digest.hexdigest()[:16]) == (7, "ba61808b4ed12622")
