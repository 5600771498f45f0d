"""In which time zones days are counted: those that the newest set-up of the desk names.

The desk's own comes first, the others by name: their order says nothing.

Which those are stands in the generation of views (`Generation.zones`) that counts so, for as long
as it lives: what counts is told by it, and never looks here.
"""

from domain.calendars import zones
from domain.days import UTC_ONLY, Zones
from domain.values import JsonObject
from eventstore.database import Database

COLLECTION = "desks"
_NEWEST: JsonObject = {"$gte": 1}  # what is no number would come behind them all


async def desk_document(
    database: Database, version: int | None, within_seconds: float = 0.0
) -> JsonObject | None:
    """Return the stored set-up of a version, or the newest, asked for within some seconds from now;
    None if there is none.
    """
    which = {"_id": _NEWEST if version is None else {"$eq": version}}
    order = {"_id": -1}
    found = await database.small(
        COLLECTION, which, order=order, limit=1, within_seconds=within_seconds
    )
    return next(iter(found), None)


async def desk_zones(database: Database, within_seconds: float = 0.0) -> Zones | None:
    """Return the zones, asked for as `desk_document`; None if that cannot be told here: the
    document is damaged, or of a version that knows more of them.
    """
    newest = await desk_document(database, None, within_seconds)
    if newest is None:
        return UTC_ONLY
    if not isinstance(desk := newest.get("desk"), dict):
        return None
    own, others = desk.get("time_zone", "UTC"), desk.get("other_time_zones", [])
    if not isinstance(others, list) or not all(
        isinstance(each, str) and each in zones() for each in (own, *others)
    ):
        return None
    return (own, *sorted({*others} - {own}))
