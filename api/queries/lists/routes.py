"""Lists of tickets, from `ticket_reads`: what the projector has written.

How a list is read is in `listing.py`, the search language in `search.py`.
"""

import hashlib
import re
from collections.abc import Mapping
from datetime import datetime
from typing import Annotated, NamedTuple, TypeVar

import orjson
from fastapi import Request, Response
from pydantic import Field

from api.cursors import Cursors
from api.http.answers import NOT_MODIFIED, IfNoneMatch, as_json, if_changed, next_link
from api.http.caller import CurrentPrincipal
from api.http.preferences import Prefer
from api.http.problems import view_responses
from api.http.routing import InQuery, Router
from api.model import ApiModel
from api.queries.lists.listing import MOST_COUNTED, Place, Sort, begin, count, page, parts, place_of
from api.queries.lists.search import COMPLETIONS, QUERY_CHARACTERS, search, span
from api.queries.representations import TicketSummary
from api.queries.visibility import VisibilityPolicy
from api.queries.watermark import FreshnessQuery
from domain.errors import Forbidden, Unacceptable
from domain.tickets.ticket import Status
from domain.values import Name, NameOrNone, Priority, Tag, TicketNumber, at_most
from eventstore.database import Database
from eventstore.mongo.errors import time_limit
from eventstore.mongo.request_batcher import SingleFlight
from eventstore.mongo.sorted_pages import Pager
from projections.views.filter import (
    Between,
    Filter,
    all_of,
    has_field,
    is_due_before,
    named,
    without_spam,
)
from projections.views.saved_views import SavedViews, ViewName

T = TypeVar("T")
_MOST_VALUES = 20
_DAY = re.compile(r"\d{4}-\d\d-\d\d(?![Tt])")

TimeText = Annotated[str, Field(examples=["2026-03-01"], max_length=40)]
Several = Annotated[list[T], *at_most(_MOST_VALUES), Field(default_factory=list)]
FieldText = Annotated[
    str, Field(pattern=r"^[a-z][a-z0-9_]{0,63}:", max_length=5_100, examples=["floor:3"])
]


class ListQuery(FreshnessQuery):
    """Which tickets to list, and how; all of it must hold."""

    q: str | None = Field(
        default=None,
        max_length=QUERY_CHARACTERS,
        examples=["status:open priority>=high printer"],
        json_schema_extra={"x-completions": COMPLETIONS},
    )
    """A search: `status:open priority>=high assignee:none printer jam`. Words are looked for in
    number, subject, body, replies, resolutions, names of files, and notes for those who may read
    them, in any script, whatever case and accents; `print*` finds what begins so; `-` before a term
    excludes; text with spaces is put in double quotes. Keys: `status`, `priority` (also with `>`
    `>=` `<` `<=`), `group`, `assignee`, `requester` (`none` for nobody), `number`, `tag`,
    `field.<key>` (a day also compared), `is:solved`, `is:unsolved`, `is:breached`, `is:spam`,
    `has:note`, `opened`, `updated`, `resolved` (a day of the desk's `time_zone` or a time, also
    compared), `due<`. What is no term, such as a pasted subject line or address, is looked for as
    the words in it.
    """
    number: TicketNumber | None = None
    status: Several[Status]
    """Any of these."""
    solved: bool | None = None
    """Resolved and closed tickets, or all others."""
    priority: Several[Priority]
    """Any of these."""
    group: NameOrNone | None = None
    assignee: NameOrNone | None = None
    requester: Name | None = None
    tag: Several[Tag]
    """All of these."""
    field: Several[FieldText]
    """`<key>:<value>` of custom fields; all of these."""
    opened_from: TimeText | None = None
    """A day of the desk's `time_zone`, or a time with its own; likewise the others."""
    opened_before: TimeText | None = None
    updated_from: TimeText | None = None
    updated_before: TimeText | None = None
    resolved_from: TimeText | None = None
    resolved_before: TimeText | None = None
    breached: bool | None = None
    """Tickets of which a promise was missed, or all others."""
    spam: bool | None = None
    """Only tickets that were closed as spam, or all others, as is the default."""
    due_before: TimeText | None = None
    """Tickets of which a promise runs out before that."""
    view: ViewName | None = None
    """A saved view, whose filter must hold too."""
    sort: Sort = "-opened_at"
    """`-` for the latest, or the most urgent, first. By `resolved_at`, only those that are
    resolved. By `due_at`, only those of which a promise is running, by when the next one runs out
    or ran out; not for requesters. By `priority`, of each the last opened first.
    """
    limit: Annotated[int, Field(ge=1, le=200)] = 50
    cursor: str | None = Field(default=None, max_length=2_000)
    """The `next` of the page before, with the same parameters."""
    count: bool = Field(
        default=False, description=f"Count what matches, up to {MOST_COUNTED}, as `total`."
    )

    def filter(self, zone: str = "UTC") -> Filter:
        """Return the filter of all parameters but the saved view, by days of a time zone.

        Raises Unacceptable.
        """
        found = named(self.model_dump())
        if self.q is not None:
            found &= search(self.q, zone)
        for key, _, text in (each.partition(":") for each in self.field):
            found &= has_field(key, text)
        for name in ("opened", "updated", "resolved"):
            low, high = (self._time(f"{name}_{end}", zone) for end in ("from", "before"))
            if low is not None or high is not None:
                found &= all_of(Between(f"{name}_at", low, high))
        due_before = self._time("due_before", zone)
        return found if due_before is None else found & is_due_before(due_before)

    def may_name_days(self) -> bool:
        """Return whether there is anything like a day, which a zone must be known for."""
        return any(_DAY.search(each) for each in vars(self).values() if isinstance(each, str))

    def _time(self, parameter: str, zone: str) -> datetime | None:
        text: str | None = getattr(self, parameter)
        try:
            return None if text is None else span(text, zone)[0]
        except ValueError as error:
            raise Unacceptable(
                "bad_time", f"{parameter} must be a day like 2026-03-01, or 2026-03-01T12:00:00Z"
            ) from error

    def fingerprint(self, zone: str | None) -> str:
        """Return what names the list that this is a page of; the same for all its pages, which are
        cut by days of one zone.
        """
        own = self.model_dump(
            mode="json", exclude={"cursor", "limit", "count", "after"}, exclude_defaults=True
        )
        own |= {} if zone is None else {"time_zone": zone}
        return hashlib.sha256(orjson.dumps(own, option=orjson.OPT_SORT_KEYS)).hexdigest()[:16]


class TicketPage(ApiModel):
    """A page of a list."""

    tickets: list[TicketSummary]
    next: str | None
    """The cursor of the next page; null on the last."""
    total: int | None = Field(
        description="How many match, if that was asked for; null where there are more than "
        f"{MOST_COUNTED}: a saved view knows."
    )
    time_zone: str | None
    """By whose days the list is cut, which is the desk's `time_zone` as it is now; null where
    nothing like a day was asked for.
    """


class _Page(NamedTuple):
    """What of an answer all share who ask for the same at once."""

    body: bytes
    headers: Mapping[str, str]


def router(database: Database, policy: VisibilityPolicy) -> Router:
    """Make the routes over one database."""
    routes = Router("queries")
    saved = SavedViews(database)
    cursors = Cursors(database, "tickets", Place)
    pager = Pager(begin)
    pages: SingleFlight[object, _Page] = SingleFlight()  # when something changes, all look at once

    @routes.get(
        "/tickets",
        response_model=TicketPage,
        responses={
            **view_responses("Link", ETag="Of this page, as it is: for `If-None-Match`."),
            **NOT_MODIFIED,
        },
    )
    async def list_tickets(
        request: Request,
        who: CurrentPrincipal,
        asked: InQuery[ListQuery],
        prefer: Prefer = None,
        if_none_match: IfNoneMatch = None,
    ) -> Response:
        """List tickets, the last opened first unless another `sort` is asked for.

        Tickets that were closed as spam are left out, unless `spam=true` or `q=is:spam` asks for
        them.

        A list holds the tickets that the caller may see: requesters see their own and those that
        they follow, agents those of their groups. Lists follow the log within moments.
        `Casebook-Views-Age` says how many seconds old the list is; with `after` it shows at least
        the version that is named.

        Tickets may change while a client reads page after page with `next`. Sorted by `opened_at`,
        each ticket that matches all the while comes exactly once. Sorted by `updated_at`, a ticket
        that changes moves within the list: it comes at least once if the latest come last, and may
        be missed if the latest come first. Sorted by `resolved_at`, `due_at` or `priority`, it may
        come again or be missed if that changes.
        """
        visible, snapshot = await policy.open(who, asked, prefer)
        zone = await policy.time_zone() if asked.may_name_days() else None

        async def answer() -> _Page:
            found, fingerprint = asked.filter(zone or "UTC"), asked.fingerprint(zone)
            place = await cursors.read(asked.cursor)
            if place is not None and place.list != fingerprint:
                raise Unacceptable(
                    "bad_cursor", "cursor is of a list with other parameters, or days"
                )
            if asked.view is not None:
                if visible.is_of_requester:
                    raise Forbidden("saved views are not for requesters")
                async with time_limit():
                    found &= (await saved.find(asked.view)).filter.where
            # How long a requester waits must not tell what others' tickets hold.
            along = "participants" if visible.is_of_requester else None
            of = parts(visible.within(without_spam(found)), visible.sort(asked.sort), along)
            limit = asked.limit
            listed = await snapshot.ask(lambda shown: page(pager, shown, of, place, limit + 1))
            following = total = None
            if len(listed) > limit:
                last = listed[limit - 1]
                following = await cursors.write((fingerprint, *place_of(last, of)))
            if asked.count:
                total = await snapshot.ask(lambda shown: count(pager, shown, of))
            presented = [visible.present(document) for document in listed[:limit]]
            told = {"tickets": presented, "next": following, "total": total, "time_zone": zone}
            body = as_json(told)
            etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
            return _Page(body, {"ETag": etag, **next_link(request, cursor=following)})

        # All that a page follows from: what is asked for, of which views, and what of it is seen.
        seen = visible.is_of_requester, visible.tickets, tuple(visible.public)
        same = request.url.query, zone, repr(snapshot.kept), seen
        shown = await pages.get(same, answer)
        return if_changed(shown.body, {**snapshot.headers, **shown.headers}, if_none_match)

    return routes
