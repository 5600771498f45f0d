"""What is done once a log has been restored, by `casebook restore` or by the database's own tools.

It is read, webhooks are told where to begin, and the restore is signed.
"""

import json
from itertools import groupby, islice
from uuid import UUID

from api.settings import Settings
from api.webhooks import store as webhooks
from domain.days import UTC_ONLY
from domain.values import JsonObject
from eventstore.database import Database
from eventstore.event_document import EventDocument
from eventstore.key_files import KeyUnusable
from eventstore.log import EventStore
from eventstore.transparency.checkpoints import LogCheckpoints
from eventstore.transparency.statements import COLLECTION as LOG_CHECKPOINTS
from eventstore.transparency.statements import last_path, signing_key
from projections.folding import fold_ticket
from scripts.checkpoint import describe, sign_restore
from scripts.cli import counting
from scripts.commands import fail

_SHOWN = 5


async def show_that_it_reads(db: Database, *, incomplete: bool) -> int:
    """Open every event and fold every ticket; say how many tickets read; return the exit code.

    The numbers of tickets to come go on above theirs.

    Raises StoreUnavailable, KeyUnusable, NoMasterKey.
    """
    store = EventStore(db)
    folded = events = highest = 0
    unreadable: dict[UUID, str] = {}
    with counting("reading every ticket", await store.count(), "events") as advance:
        for part in await store.ranges():
            stored = await store.of_range(part)
            opened = await store.open(stored)
            highest = max([highest, *map(_number, opened)])
            for ticket_id, stream in groupby(opened, key=lambda event: event["ticket_id"]):
                result = await fold_ticket(UTC_ONLY, (), ticket_id, None, list(stream))
                folded += 1
                if result.failure is not None:
                    unreadable[ticket_id] = result.failure.error
            events += len(stored)
            advance(len(stored))
    print(f"{folded - len(unreadable)} of {folded} tickets read, of {events} events")
    if highest:
        await db.numbers.restored(highest)
    for ticket_id, error in islice(unreadable.items(), _SHOWN):
        fail(f"ticket {ticket_id} does not read: {error}")
    return 1 if unreadable and not incomplete else 0


def _number(event: EventDocument) -> int:
    """Return the number that an event gives to its ticket, or 0."""
    number = event["data"].get("number")
    return number if isinstance(number, int) else 0


async def send_from_now_on(db: Database, store: EventStore) -> None:
    """Have webhooks told of what comes from now on, and not of all that was restored."""
    token, now = await store.position(), await db.server_time()
    now_on: JsonObject = {"since": token, "backfill": None}
    await db.collection(webhooks.WEBHOOKS).update_many({}, {"$set": now_on})
    position: JsonObject = {"token": token, "looked_at": now}
    first: JsonObject = {"owner": None, "epoch": 0, "seen_at": now}
    await db.collection(webhooks.DISPATCH).update_one(
        {"_id": "dispatch"}, {"$set": position, "$setOnInsert": first}, upsert=True
    )


async def sign(db: Database, settings: Settings, why: str) -> int:
    """Sign that the log was restored, if the signing key is here.

    Return the exit code: 1 if it is not signed, and was signed before.
    """
    path = settings.signing_key_path
    signed_before = await db.collection(LOG_CHECKPOINTS).find_one({}, {"_id": 1}) is not None
    if not path.exists():
        if not signed_before and not last_path(path).exists():
            return 0
        fail(
            f"not signed: {path} is not here. Until it is said where the signing key is "
            f"(casebook checkpoint --restored {json.dumps(why)}), nothing is signed"
        )
        return 1
    try:
        signing = LogCheckpoints(db, EventStore(db), signing_key(path), last_path(path))
        print(describe(await sign_restore(db, signing, why)))
    except KeyUnusable as error:
        fail(f"not signed: {error.detail}")
        return 1
    return 0
