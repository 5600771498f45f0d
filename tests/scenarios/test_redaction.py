"""What a supervisor expects of a redaction, over the API: each test is a sentence that one would
say.
"""

import json
import os
from datetime import timedelta
from functools import partial
from uuid import UUID, uuid4

import pytest
import pytest_asyncio

from api.access.rights import RIGHTS
from api.commands.handler import Handler, Submission
from domain.tickets.opening import OpenTicket
from eventstore.background import background
from eventstore.database import Database
from eventstore.event_document import chain_is_whole, utc_now
from eventstore.log import EventStore
from projections.erasure.eraser import Eraser
from projections.generations import FIRST
from projections.replay.rebuild import Rebuild
from projections.workers import workers
from tests.api.test_api import OPEN, serving
from tests.api.test_visibility import done
from tests.api.test_webhooks import dispatching, hooked, receiving
from tests.callers import ADMIN, AGENT, AUDITOR, REQUESTER, SUPERVISOR
from tests.oracle import assert_views_equal_the_log
from tests.processes import script
from tests.projecting import caught_up, running, until
from tests.spec import ALICE

CARD = "4111111111111111"
FILE = {"name": f"{CARD}.png", "media_type": "image/png", "size_bytes": 1, "sha256": "0" * 64}
WHY = {"reason": "a card number"}


@pytest_asyncio.fixture
async def desk(database):
    """The API with its projector."""
    async with serving(database) as client:
        yield client


async def pasted(desk):
    """Open a ticket that says a card number wherever something can be said: its id."""
    said = {"subject": f"Card {CARD}", "body": f"It is {CARD}.", "fields": {"card": CARD}}
    opening = {**OPEN, **said}
    answer = await desk.post("/tickets", json=opening, headers=REQUESTER)
    ticket = answer.json()["ticket_id"]
    for verb, body, who in (
        ("reply", {"body": f"Charge {CARD}."}, REQUESTER),
        ("add_note", {"body": f"They gave us {CARD}."}, AGENT),
        ("attach", FILE, AGENT),
        ("assign", {"assignee": "alice"}, AGENT),
        ("update_status", {"status": "on_hold", "reason": f"waits for {CARD}"}, AGENT),
        ("resolve", {"resolution": f"{CARD} was charged."}, AGENT),
        ("rate", {"score": 5, "comment": f"Thanks for charging {CARD}!"}, REQUESTER),
        ("close", {}, AGENT),
    ):
        await done(desk, ticket, verb, body, who)
    return ticket


async def redacted(desk, ticket):
    """Redact all events of a ticket that say the card number."""
    timeline = (await desk.get(f"/tickets/{ticket}/timeline", headers=SUPERVISOR)).json()
    versions = [e["version"] for e in timeline["events"] if CARD in json.dumps(e["data"])]
    assert len(versions) == 7
    for version in versions:
        told = await done(desk, ticket, "redact", {"version": version, **WHY})
        assert told["redaction"] == "destroyed"


ASKED = [
    *("", "?version=1", "?version=9", "?as_of=2100-01-01T00:00:00Z", "?from=1&to=9"),
    *(f"?q={CARD}", f"?q=field.card:{CARD}", "?limit=100", "?since=2000-01-01T00:00:00Z"),
]


async def answers(
    desk, ticket, asked=ASKED, callers=(SUPERVISOR, AGENT, REQUESTER, AUDITOR, ADMIN)
):
    """Yield what each route for reading answers to those whom it answers, with what they ask."""
    for route in RIGHTS:
        method, _, path = route.partition(" ")
        if method != "GET" or path.endswith("/stream") or path.startswith("/console"):
            continue
        for query in asked:
            for who in callers:
                url = path.replace("{ticket_id}", ticket) + query
                answer = await desk.get(url, headers=who)
                if answer.status_code == 200:
                    yield url, answer.text.replace(json.dumps(query), "")


async def test_a_card_number_that_was_pasted_is_shown_to_nobody_any_more(desk, database, store):
    """L7: by no route, whatever the way it is asked in, in the past neither; and views, a replay
    and the oracle agree.
    """
    ticket = await pasted(desk)
    told = {url async for url, text in answers(desk, ticket, [""], [SUPERVISOR]) if CARD in text}
    assert {f"/tickets/{ticket}", f"/tickets/{ticket}/timeline", "/tickets", "/events"} <= told
    await redacted(desk, ticket)
    await caught_up(database, store)
    left = {url async for url, text in answers(desk, ticket) if CARD in _without_query(text)}
    assert left == set()
    shown = (await desk.get(f"/tickets/{ticket}", headers=SUPERVISOR)).json()
    assert [shown[name] for name in ("subject", "preview", "resolution")] == ["[redacted]"] * 3
    assert (await desk.get(f"/tickets?q={CARD}", headers=SUPERVISOR)).json()["tickets"] == []
    await assert_views_equal_the_log(database)


def _without_query(text):
    return text.replace(f"q={CARD}", "").replace(f"card%3A{CARD}", "").replace(f"card:{CARD}", "")


async def test_who_listens_from_before_it_is_not_told_it_any_more(desk, database, store):
    """A feed from an old cursor, and webhooks: what is to be sent yet, and what is sent again."""
    begun = utc_now() - timedelta(days=1)
    ticket = await pasted(desk)
    await redacted(desk, ticket)
    answer = await desk.get("/events", headers=SUPERVISOR)
    assert "MessageRedacted" in answer.text
    assert CARD not in answer.text
    async with receiving() as receiver:
        hook = await hooked(desk, receiver)
        order = {"since": begun.isoformat()}
        again = await desk.post(f"/webhooks/{hook['id']}/redeliver", json=order, headers=SUPERVISOR)
        assert again.status_code == 202, again.text
        async with dispatching(database, store=store):
            await until(partial(_told, receiver, 9 + 7))
    assert not [body for _, body in receiver.got if CARD.encode() in body]


async def _told(receiver, events):
    return len(receiver.told) >= events


async def test_another_process_that_had_read_it_forgets_it(desk, database, store):
    """By any event that says so, or after the time that it takes to look."""
    ticket = await pasted(desk)
    other = Database(database.url, database.driver)
    async with serving(FIRST.of(other), project=False) as elsewhere:
        path = f"/tickets/{ticket}/timeline"
        assert CARD in (await elsewhere.get(path, headers=SUPERVISOR)).text
        await redacted(desk, ticket)
        assert CARD not in (await elsewhere.get(path, headers=SUPERVISOR)).text
        [first] = await EventStore(other).load(UUID(ticket), limit=1)
        assert CARD not in str(first)
    await other.close()


async def test_views_of_a_time_before_it_show_it_neither(desk, database, store):
    ticket = await pasted(desk)
    await caught_up(database, store)
    async with workers(database, 0) as here:
        await Rebuild(database, here).as_of("then", utc_now(), "recorded")
    asked = {"as_of_view": "then"}
    assert CARD in (await desk.get("/tickets", params=asked, headers=SUPERVISOR)).text
    await redacted(desk, ticket)

    async def gone():
        return CARD not in (await desk.get("/tickets", params=asked, headers=SUPERVISOR)).text

    async with background(Eraser(database, store).run()):
        await until(gone)


async def test_the_log_can_be_verified_and_replayed_as_before(desk, database, store):
    """L1, L7, L11: what was written stays as it was, and a replay of it shows the same views."""
    ticket = await pasted(desk)
    written = await store.stored(UUID(ticket))
    await redacted(desk, ticket)
    now = await store.stored(UUID(ticket))
    assert now[: len(written)] == written
    assert chain_is_whole(now)
    await caught_up(database, store)
    env = {**os.environ, "CASEBOOK_MONGODB_URL": database.url}
    for module, words in (("scripts.replay", ["--verify"]), ("scripts.verify", ["--unsigned"])):
        process = await script(module, *words, env=env)
        out, err = await process.communicate()
        assert process.returncode == 0, (out, err)


@pytest.mark.parametrize(
    ("body", "who", "code"),
    [
        ({"version": 99, **WHY}, SUPERVISOR, "nothing_to_redact"),
        ({"version": 5, **WHY}, SUPERVISOR, "nothing_to_redact"),  # assigned: no words
        ({"version": 1, "fields": ["requester"], **WHY}, SUPERVISOR, "nothing_to_redact"),
        ({"version": 1}, SUPERVISOR, "invalid_request"),
        ({"version": 1, **WHY}, AGENT, "forbidden"),
    ],
)
async def test_only_words_that_are_there_can_be_redacted_by_a_supervisor(desk, body, who, code):
    ticket = await pasted(desk)
    answer = await desk.post(f"/tickets/{ticket}/redact", json=body, headers=who)
    assert answer.json()["code"] == code


async def test_a_part_of_the_opening_is_redacted_and_all_else_stays(desk):
    ticket = await pasted(desk)
    body = {"version": 1, "fields": ["body"], **WHY}
    assert len((await done(desk, ticket, "redact", body))["events"]) == 1
    assert (await done(desk, ticket, "redact", body))["events"] == []  # it is by now
    shown = (await desk.get(f"/tickets/{ticket}", headers=SUPERVISOR)).json()
    assert (shown["subject"], shown["body"]) == (f"Card {CARD}", "[redacted]")
    told = (await desk.get(f"/tickets/{ticket}/timeline", headers=REQUESTER)).json()["events"]
    assert told[-1]["data"]["redacts"] == 1


async def test_the_hash_of_what_was_not_sealed_is_not_told_to_be_another(desk, database):
    """L11: it is over words that are hidden. The timeline says so, and the hash cannot be known."""
    ticket, former = uuid4(), Handler(EventStore(database, sealing=False))
    opening = OpenTicket(subject="Jam", requester="bob", body=CARD, fields={"card": CARD})
    await former.handle(ticket, Submission(command=opening, actor=ALICE))
    await done(desk, ticket, "redact", {"version": 1, "fields": ["body", "fields"], **WHY})
    told = (await desk.get(f"/tickets/{ticket}/timeline", headers=SUPERVISOR)).json()
    assert CARD not in json.dumps(told)
    hidden = ["/data/body", "/data/fields/card", "/command/fingerprint"]
    assert [sorted(each["hidden"]) for each in told["events"]] == [sorted(hidden), []]
    told = (await desk.get(f"/tickets/{ticket}/timeline", headers=REQUESTER)).json()
    assert [each["hidden"] for each in told["events"]] == [None, None]


async def test_the_same_message_on_many_tickets_is_redacted_at_once(desk):
    answers = [await desk.post("/tickets", json=OPEN, headers=REQUESTER) for _ in range(2)]
    tickets = [answer.json()["ticket_id"] for answer in answers]
    body = {"tickets": tickets, "command": {"version": 1, **WHY}}
    answer = await desk.post("/bulk/redact", json=body, headers=SUPERVISOR)
    assert answer.status_code == 200, answer.text
    assert [each["redaction"] for each in answer.json()["outcomes"]] == ["destroyed"] * 2


async def test_a_ticket_shows_it_no_more_while_nothing_is_projected(database, store):
    """L9"""
    async with serving(database, project=False) as desk:
        async with running(database):
            answer = await desk.post("/tickets", json={**OPEN, "body": CARD}, headers=REQUESTER)
            await caught_up(database, store)
        path = f"/tickets/{answer.json()['ticket_id']}"
        answer = await desk.post(f"{path}/redact", json={"version": 1, **WHY}, headers=SUPERVISOR)
        assert answer.status_code == 200, answer.text
        assert CARD not in (await desk.get(path, headers=SUPERVISOR)).text


async def test_spam_is_closed_and_leaves_every_list_but_that_of_spam(desk, database, store):
    """For everybody; whoever has its address reads it as any closed ticket."""
    tickets = []
    for n in range(3):
        opening = {**OPEN, "subject": f"Buy {n}", "body": "cheap watches"}
        answer = await desk.post("/tickets", json=opening, headers=REQUESTER)
        tickets.append(answer.json()["ticket_id"])
    for name, asked in (("all", {}), ("junk", {"spam": True}), ("new", {"status": "new"})):
        await desk.put(f"/views/{name}", json=asked, headers=SUPERVISOR)
    spam, duplicate, real = tickets
    await done(desk, spam, "close", {"reason": "spam"})
    await done(desk, duplicate, "close", {"reason": "duplicate"})
    await caught_up(database, store)
    number = (await desk.get(f"/tickets/{spam}", headers=AGENT)).json()["number"]
    for query, expected in {
        f"number={number}": {spam},
        f"q=number:{number}": {spam},
        "": {duplicate, real},
        "q=watches": {duplicate, real},
        "status=closed": {duplicate},
        "solved=false": {real},
        "view=all": {duplicate, real},
        "spam=true": {spam},
        "spam=false": {duplicate, real},
        "q=watches+is:spam": {spam},
        "q=-is:spam+status:closed": {duplicate},
        "view=junk": {spam},
        "view=all&spam=true": {spam},
    }.items():
        for who in (SUPERVISOR, AUDITOR, AGENT, REQUESTER):
            if who == REQUESTER and "view" in query:
                continue
            answer = await desk.get(f"/tickets?{query}&count=true", headers=who)
            assert {each["id"] for each in answer.json()["tickets"]} == expected, (query, who)
            assert answer.json()["total"] == len(expected)

    async def counted():
        views = (await desk.get("/views", headers=SUPERVISOR)).json()["views"]
        counts = {each["name"]: each["count"] for each in views}
        return None not in counts.values() and counts

    assert await until(counted) == {"all": 2, "junk": 1, "new": 1}
    shown = (await desk.get(f"/tickets/{spam}", headers=AGENT)).json()
    assert (shown["close_reason"], shown["body"]) == ("spam", "cheap watches")
    await assert_views_equal_the_log(database)
