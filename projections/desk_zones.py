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
NEWEST: JsonObject = {"$gte": 1}  # what is no number would come behind them all


async def desk_zones(database: Database, within_seconds: float = 0.0) -> Zones | None:
    """Return the zones, asked for within some seconds from now; None if that cannot be told here:
    the document is damaged, or of a version that knows more of them.
    """
    newest = await database.small(
        COLLECTION,
        {"_id": NEWEST},
        order={"_id": -1},
        limit=1,
        within_seconds=within_seconds,
    )
    if not newest:
        return UTC_ONLY
    if not isinstance(desk := newest[0].get("desk"), dict):
        return None
    own, others = desk.get("time_zone", "UTC"), desk.get("other_time_zones", [])
    if not isinstance(others, list) or not all(
        isinstance(each, str) and each in zones() for each in (own, *others)
    ):
        return None
    return (own, *sorted({*others} - {own}))
