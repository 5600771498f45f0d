"""In which time zones days are counted: those that the newest set-up of the desk names.

Which those are stands in the generation of views (`Generation.zones`) that counts so, for as long
as it lives: what counts is told by it, and never looks here.
"""

from domain.calendars import zones
from domain.days import UTC_ONLY, Zones
from domain.values import JsonObject
from eventstore.database import Database

COLLECTION = "desks"
NEWEST: JsonObject = {"$gte": 1}  # what is no number would come behind them all


async def desk_zones(database: Database, within_seconds: float = 0.0) -> Zones:
    """Return the zones, the desk's own first, asked for within some seconds from now. One that
    another version has stored, and the pinned rules do not know, is UTC here.
    """
    newest = await database.small(
        COLLECTION,
        {"_id": NEWEST},
        order={"_id": -1},
        limit=1,
        within_seconds=within_seconds,
    )
    desk = newest[0].get("desk") if newest else None
    if not isinstance(desk, dict):
        return UTC_ONLY
    others = desk.get("other_time_zones")
    named = [desk.get("time_zone"), *(others if isinstance(others, list) else ())]
    known = (each if isinstance(each, str) and each in zones() else "UTC" for each in named)
    return tuple(dict.fromkeys(known))
