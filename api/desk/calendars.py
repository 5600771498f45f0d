"""Calendars as they become part of a set-up: with public holidays as dates, and with versions.

The library of holidays is asked here, once, when the desk is set up, and never by a command or a
fold: what it says may change with its release. It is imported when it is first asked.
"""

from datetime import date
from functools import lru_cache

from domain.desk import Desk
from domain.errors import Unacceptable

YEARS = 4
"""For how many years public holidays are looked up, this one included: setting up the same desk
again in a later year is another set-up.
"""


def with_dates(desk: Desk, former: Desk, version: int, year: int) -> Desk:
    """Return a desk whose calendars have their public holidays from `year` on; each is of this
    `version` of the desk, unless `former` has it just so.

    Raises Unacceptable for holidays that are not known.
    """
    calendars = {}
    for name, calendar in desk.calendars.items():
        kept = former.calendars.get(name)
        public = calendar.public_holidays
        if public is not None:
            public = public.model_copy(update={"dates": _public_holidays(public.of, year)})
        was = version if kept is None else kept.version
        new = calendar.model_copy(update={"public_holidays": public, "version": was})
        calendars[name] = new if new == kept else new.model_copy(update={"version": version})
    return desk.model_copy(update={"calendars": calendars})


@lru_cache(maxsize=64)
def _public_holidays(of: str, year: int) -> tuple[date, ...]:
    import holidays  # noqa: PLC0415 13 MB on the disk, 40 ms: for those who ask for it

    country, _, part = of.partition("-")
    parts = holidays.list_supported_countries(include_aliases=False).get(country)
    if parts is None or (part and part not in parts):
        raise Unacceptable(
            "unknown_holidays",
            f"no public holidays are known of {of!r}; they are named like DE or DE-BY (ISO 3166)",
        )
    found = holidays.country_holidays(country, part or None, years=range(year, year + YEARS))
    return tuple(sorted(found))
