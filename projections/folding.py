"""One ticket's events folded into its read document, live and in a replay alike.

They are folded as far as they can be. Nothing is read or written here.
"""

import asyncio
import traceback
from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from typing import NamedTuple
from uuid import UUID

from pydantic import ValidationError

from domain.days import Zones
from domain.errors import CasebookError, faults_of
from domain.values import JsonObject
from eventstore.event_document import Envelope, EventDocument, from_document
from eventstore.mongo.driver import BSONError, RawBSONDocument, encode_bson
from eventstore.mongo.errors import DriverError, describe
from eventstore.mongo.limits import size_of
from projections.views import sums, tickets
from projections.views.saved_views import SavedView, counting
from projections.views.sums import Contributions
from projections.views.tickets import TicketRead

FOLDS_AT_A_TIME = 50
"""Then others have a turn: the API may live in the same process."""
_MOST_BYTES = 16 * 2**20 - 64 * 2**10  # of a document, with room for what goes around it


class TooLarge(CasebookError):
    """A read document would be larger than the database takes: for example with 50,000 tags."""

    def __init__(self, size_bytes: int) -> None:
        super().__init__("too_large", f"the read document would have {size_bytes} bytes")


class Stored(NamedTuple):
    """A read document as it is: what stands in it, and what it has added to the sums.

    `read` is None if it cannot be read: then `damage` says why. `damaged`: the field that no longer
    says what was added, if one does not.
    """

    read: TicketRead | None
    damage: str | None
    version: int
    added: Contributions
    damaged: str | None


class Change(NamedTuple):
    """What becomes of one ticket's read document.

    `written`: all of it if `is_whole`, else the fields that may differ from what is stored; None if
    it is to go.
    """

    ticket_id: UUID
    before: Stored | None
    after: TicketRead | None
    written: RawBSONDocument | None
    last: Envelope | None
    is_whole: bool = True


class FoldFailure(NamedTuple):
    """A ticket that could not be folded, and the version it stopped at."""

    ticket_id: UUID
    version: int
    error: str


class FoldResult(NamedTuple):
    """What events of one ticket come to: both, if only the later ones could not be taken."""

    change: Change | None
    failure: FoldFailure | None


async def fold_ticket(
    zones: Zones,
    views: Sequence[SavedView],
    ticket_id: UUID,
    before: Stored | None,
    events: Sequence[EventDocument],
    also_in: Collection[str] = (),
) -> FoldResult:
    """Fold events into a ticket's view as far as they can be, ready to be written.

    `zones`: by whose days it is counted. `also_in`: ids of saved views that count it beside those
    of `views` that it matches.
    Whatever goes wrong with one ticket is no reason to keep the others waiting.
    """
    read = None if before is None else before.read
    after, folded, error, change = None if read is None else tickets.copy(read), 0, "", None
    last: Envelope | None = None
    try:
        for event in events:
            last = from_document(event)
            after = tickets.apply(after, last, zones)
            folded += 1
            if folded % FOLDS_AT_A_TIME == 0:
                await asyncio.sleep(0)
    except Exception as caught:  # noqa: BLE001 a bug in a fold may raise anything
        error = describe_error(caught)
        # The fold has changed it in place, nobody knows how far.
        after, last = read, None
        for event in events[:folded]:
            last = from_document(event)
            after = tickets.evolve(after, last, zones)
    if after is not None and (last is not None or not error):
        try:
            in_views = {*counting(views, after), *also_in}
            after = replace(after, in_views=tuple(sorted(in_views)))
            document = tickets.to_document(after)
            # BSON has at most six times the bytes of JSON (`test_limits.py`): so an eighth fits.
            is_small = read is not None and 0 < size_of(document) < _MOST_BYTES // 8
            whole = None if is_small else _encoded(document)
            written = whole if read is None else _encoded(tickets.changed(read, after, document))
            change = Change(ticket_id, before, after, written, last, is_whole=read is None)
        except Exception as caught:  # noqa: BLE001 as may what cannot be encoded
            after, error = read, describe_error(caught)
    version = 1 if after is None else after.version + 1
    return FoldResult(change, FoldFailure(ticket_id, version, error) if error else None)


def _encoded(document: JsonObject) -> RawBSONDocument:
    data = encode_bson(document)
    if len(data) > _MOST_BYTES:
        raise TooLarge(len(data))
    return RawBSONDocument(data)


def stored_as(document: Mapping[str, object]) -> Stored:
    """Read a document as far as it can be read."""
    version, read, damage = document.get("version"), None, None
    added, damaged = sums.stored(document)
    try:
        read = tickets.from_document(document)
        if read is None:
            damage = "the read document is of another shape"
        elif damaged is not None:
            read, damage = None, f"the read document is damaged: {damaged}"
    except (KeyError, ValidationError) as error:
        damage = f"the read document is damaged: {describe_error(error)}"
    return Stored(read, damage, version if isinstance(version, int) else 0, added, damaged)


def describe_error(error: Exception) -> str:
    """Say what went wrong, and what kind of error it was; nothing of what is in a ticket.

    What others' errors say may be of it: of them, the kind and where it was.
    """
    if isinstance(error, DriverError):
        detail = describe(error)
    elif isinstance(error, CasebookError | BSONError):
        detail = str(error)
    elif isinstance(error, ValidationError):
        detail = faults_of(error)
    else:
        [*_, last] = traceback.extract_tb(error.__traceback__) or [None]
        detail = "" if last is None else f"in {last.name}, line {last.lineno}"
    return f"{type(error).__name__}: {detail}".rstrip(": ")
