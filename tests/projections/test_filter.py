"""One filter in two ways: what it matches is what the database finds by its condition (L7)."""

import random
from dataclasses import replace
from uuid import UUID

from api.queries.lists.search import search
from domain.values import FieldValue
from projections.views import tickets
from projections.views.filter import AnyOf, Filter, Is, Not, all_of, has_field, named, without_spam
from projections.views.words import words
from scripts.bench.made_up_views import made_up_lives

SEARCHES = [
    *(
        "",
        "printer",
        "jam*",
        "prin*",
        "-prin*",
        "printer -status:closed",
        '"printer jam"',
        "nothing",
        "打印机",
        "-打印机",
        "机",
    ),
    *("status:open,pending", "-status:new", "priority>=high", "priority>urgent", "is:solved"),
    *("assignee:none", "-assignee:none", "group:none is:unsolved", "tag:vip", "-tag:vip"),
    *(
        "is:breached",
        "-is:breached",
        "is:spam",
        "-is:spam",
        "has:note",
        "-has:note",
        "due<2100-01-01",
        "-due<2100-01-01",
    ),
    *("opened>2025-01-01", "opened<=2025-01-01", "resolved>=2025-01-01", "-resolved>=2025-01-01"),
    *("field.floor:3", "-field.floor:3", "field.vip:true", "field.vip:1", "field.none:3"),
    *("field.floor:12.50", "-field.floor:+012.5", "field.floor:b", "field.floor:a field.floor:b"),
    *("field.floor:2026-03-01", "tag:紙", "-tag:紙"),
    *("field.floor>2026-03-01", "field.floor>=2026-03-01", "-field.floor<2026-03-02"),
    *("field.floor<=2026-03-01", "field.floor<2026-03-01", "field.vip>=2026-02-28"),
]
FILTERS = [
    *map(search, SEARCHES),
    named({"status": ["open", "new"], "solved": False, "group": "", "tag": ["vip"]}),
    named({"assignee": "agent 7", "priority": ["low", "high"], "breached": True}),
    all_of(AnyOf((search("is:solved"), search("group:none"), has_field("floor", "4")))),
    all_of(Not(all_of(AnyOf((search("is:solved"), search("group:none")))))),
    all_of(Is("followers", ("alice",))),
    all_of(Is("tags", ("vip", "paper"))),
    Filter(),
    *map(without_spam, map(search, ("", "printer", "is:spam", "status:closed", "status:open"))),
    named({"spam": False}),
]


async def test_a_filter_matches_what_the_database_finds(database):
    """L7: documents, and tickets that are being folded, alike."""
    chance = random.Random(5)  # noqa: S311
    lives = made_up_lives()[:60]
    values: list[FieldValue | None] = [3, "3", 4, True, 1, "true", None, "12.5", "2026-03-01"]
    values += [("a", "b"), ("b",)]
    reads = []
    for n, life in enumerate(lives):
        value = values[n % len(values)]
        ticket = replace(
            life.ticket,
            fields={} if value is None else {"floor": value, "vip": value},
            tags=tuple(chance.sample(["vip", "paper", "紙"], n % 4)),
            followers=("alice",) if n % 5 == 0 else (),
        )
        terms = (
            *life.terms,
            *(words(["打印机卡", "打印卡 印机"][n % 2]) if n % 3 else ()),
            *(
                tickets.field_term(key, each)
                for key, several in ticket.fields.items()
                for each in (several if isinstance(several, tuple) else (several,))
            ),
        )
        id_ = UUID(int=chance.getrandbits(128))
        reads.append(replace(life, id=id_, ticket=ticket, terms=terms, has_note=n % 3 == 0))
    documents = [tickets.to_document(read) for read in reads]
    collection = database.collection(tickets.COLLECTION)
    await collection.insert_many(documents)
    sizes = set()
    for asked in FILTERS:
        found = {d["_id"] for d in await collection.find(asked.condition(), {"_id": 1}).to_list()}
        assert found == {d["_id"] for d in documents if asked.matches(d)}, asked
        assert found == {read.id for read in reads if asked.matches(tickets.values(read))}, asked
        sizes.add(len(found))
    assert len(sizes) > 10
