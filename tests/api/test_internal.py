"""What is said for colleagues reaches no requester, by any answer: to them a ticket is what its
public events make of it.
"""

import json
import re
from datetime import timedelta
from typing import Any

import orjson
import pytest
import pytest_asyncio
from hypothesis import given
from hypothesis import strategies as st

from api.access.principals import Principal
from api.access.rights import RIGHTS
from api.queries.visibility import Visibility
from domain.desk import Desk
from domain.errors import Refusal
from domain.sla import SlaTargets
from domain.tickets import encode, is_public
from domain.tickets.command import Context, decide
from domain.tickets.conversation import AgentReplied, NoteAdded, RequesterReplied
from domain.tickets.details import Attach, SetField
from domain.tickets.lifecycle import StatusUpdated
from domain.tickets.opening import OpenTicket
from eventstore.event_document import EMPTY, CommandRef, Head, Metadata, chained
from eventstore.log import EventStore
from projections.views import tickets
from tests.api.test_api import serving
from tests.api.test_visibility import BODIES, done, opened
from tests.callers import ADMIN, SUPERVISOR, as_
from tests.projecting import caught_up
from tests.spec import ALICE, FOLLOW_UP, NOW, OTHER, PAST, TICKET, folded
from tests.spec import opened as opening
from tests.strategies import actors, commands, desks, of_command

BOB_SEES = Visibility(Principal("bob", "requester"))
FILE = {"name": "log.txt", "media_type": "text/plain", "size_bytes": 1, "sha256": "0b" * 32}


# What may be internal comes often enough to meet what it was before.
SETTING = of_command(SetField, key=st.just("floor"))
MIXED = st.one_of(commands.map(lambda any_: any_), SETTING, of_command(Attach))


@given(st.lists(st.tuples(MIXED, actors, desks), min_size=8, max_size=20))
def test_to_requesters_a_ticket_is_what_its_public_events_make_of_it(steps):
    """Whatever is done to it: what they are shown of the view is the fold of the public events."""
    ticket, now = None, NOW
    heads = {"all": EMPTY, "public": EMPTY}
    reads: dict[str, Any] = {"all": None, "public": None}
    first = OpenTicket(subject="Printer jam", requester="bob", fields={"floor": 1, "room": "x"})
    for command, actor, desk in [(first, ALICE, Desk(other_fields_public=False)), *steps]:
        now += timedelta(minutes=7)
        context = Context(
            now=now,
            actor=actor,
            ticket_id=TICKET,
            desk=desk,
            other=folded(opening()),
            other_id=OTHER,
            follow_up_id=FOLLOW_UP,
        )
        try:
            events = decide(ticket, command, context).events
        except Refusal:
            continue
        for event in events:
            data: Any = encode(event, "bob")
            about = Metadata(actor, CommandRef("k", "f"))
            for which in ("all", "public") if is_public(data.type, data.data) else ("all",):
                known = data
                if which == "public" and (hidden := data.data.get("internal_fields")):
                    fields = {k: v for k, v in data.data["fields"].items() if k not in hidden}
                    known = data._replace(
                        data={**data.data, "fields": fields, "internal_fields": []}
                    )
                [envelope] = chained(TICKET, heads[which], [known], about, now, now)
                heads[which] = Head(envelope.version, envelope.hash)
                reads[which] = tickets.apply(reads[which], envelope)
            ticket = reads["all"].ticket
        shown, public = (BOB_SEES.present(tickets.to_document(read)) for read in reads.values())
        assert orjson.dumps(shown) == orjson.dumps(public)
        everything, public = reads.values()
        assert public.terms == (everything.public_terms or everything.terms)


def test_a_wait_that_is_over_shows_no_due_times_to_requesters():
    """A note behind the end of the wait sets the clock going, and they must not see that."""
    promised = opening(sla=SlaTargets(60, 600, 60))
    waits = StatusUpdated("pending", "asked", PAST)
    past = [promised, AgentReplied("Which tray?"), RequesterReplied("The first."), waits]
    about, head = Metadata(ALICE, CommandRef("k", "f")), EMPTY
    read: Any = None
    shown = []
    for event in [*past, NoteAdded("CANARY")]:
        at = NOW if isinstance(event, NoteAdded) else PAST - timedelta(minutes=1)
        [envelope] = chained(TICKET, head, [encode(event, "bob")], about, at, at)
        head = Head(envelope.version, envelope.hash)
        read = tickets.apply(read, envelope)
        shown.append(BOB_SEES.present(tickets.to_document(read)))
    assert tickets.to_document(read)["next_response_due_at"] is not None
    assert orjson.dumps(shown[-1]) == orjson.dumps(shown[-2])


# --- two tickets that differ by what is internal alone --------------------------------------------

PAST_TIME = (NOW + timedelta(hours=3)).isoformat().replace("+00:00", "Z")
SAID = [
    *("canary", "floor=3", "vip=1", "jam*", "vip*", "-canary", "-field.vip:1", "field.vip:1"),
    *("field.floor:3", "updated>2026-03-01", "updated<2026-03-02", "tag:paper", "is:solved"),
    *("-updated>2026-03-02", "log.txt", "has:note", "is:breached", "due<2030-01-01"),
]
QUERIES = {
    "GET /tickets": [
        *("", "sort=-updated_at&limit=1", "sort=updated_at&limit=1", "sort=-opened_at&limit=1"),
        *("sort=due_at", "sort=-priority", "sort=priority&limit=1"),
        *("sort=-resolved_at", "count=true", "field=vip:1&count=true", "field=floor:3&count=true"),
        *("updated_from=2026-03-02", "updated_before=2026-03-02", "breached=true"),
        *("after={ticket}@1", "after={ticket}@9", "due_before=2030-01-01", "view=any"),
        *(f"count=true&q={said}" for said in SAID),
    ],
    "GET /tickets/{ticket_id}": [
        *("", *(f"version={n}" for n in range(1, 14)), f"as_of={PAST_TIME}", "version=99"),
        f"as_of={PAST_TIME}&by=recorded",
    ],
    "GET /tickets/{ticket_id}/timeline": [
        *("", "limit=1", "limit=2", "after=1", "after=2", "after=3", "after=4", "after=5"),
        f"as_of={PAST_TIME}",
    ],
    "GET /tickets/{ticket_id}/diff": ["", "from=1", "from=2&to=3", "from=1&to=99", "from=9"],
}
"""What is asked by each route. A route that is not here is asked as it is."""
KEY = {"Idempotency-Key": "k"}
HEADERS = [
    *({"If-Match": f'"{n}"'} for n in (-1, 0, 1)),  # behind the version that there is
    *({"If-Match": "*", **KEY}, KEY),
    {"Prefer": "return=representation, wait=10"},
    {"Prefer": "return=minimal"},
]
TELLING = ("etag", "location", "preference-applied", "link", "content-type", "retry-after")


class Twins:
    """Bob's ticket, and eve's: of hers colleagues say what they do not say of his."""

    def __init__(self, database, client, mine, theirs, other):
        self.database, self.store = database, EventStore(database)
        self.client, self.ids, self.other, self.whispers = client, (mine, theirs), other, 0

    async def both(self, verb, body):
        for ticket in self.ids:
            await done(self.client, ticket, verb, body)

    async def whispered(self):
        """Let colleagues talk."""
        self.whispers += 1
        for verb, body in (
            ("add_note", {"body": "CANARY"}),
            ("set_field", {"key": "vip", "value": self.whispers}),
            ("set_field", {"key": "vip", "value": 1}),
            ("attach", {**FILE, "name": f"CANARY {self.whispers}", "internal": True}),
            ("follow", {"follower": f"CANARY {self.whispers}"}),
        ):
            path = f"/tickets/{self.ids[1]}/{verb}"
            answer = await self.client.post(path, json=body, headers=SUPERVISOR)
            assert answer.status_code in (200, 409), answer.text  # closed, or full of such
        for verb in ("link", "unlink"):
            await done(self.client, self.ids[1], verb, {"relation": "blocks", "ticket": self.other})

    async def ask(self, method, paths, headers=None, said=""):
        """Ask for both, each by its requester; the answers must be the same to the letter."""
        answers, told = [], []
        for ticket, name, path in zip(self.ids, ("bob", "eve"), paths, strict=True):
            more = {**(headers or {})}
            if more.get("If-Match", "*") != "*":
                shown = await self.client.get(f"/tickets/{ticket}", headers=as_("requester", name))
                more["If-Match"] = f'"{int(more["If-Match"][1:-1]) + shown.json()["version"]}"'
            answer = await self.client.request(
                method,
                path.replace("{ticket_id}", ticket).replace("{ticket}", ticket),
                headers={**as_("requester", name), "Content-Type": "application/json", **more},
                content=said.replace("{ticket}", ticket).replace("{name}", name) or None,
            )
            answers.append(answer)
            told.append(alike(answer, ticket, name))
        assert told[0] == told[1], (method, paths, headers)
        assert not re.search("canary", told[1], re.IGNORECASE)
        return answers


_TIME = r"\d{4}-\d\d-\d\dT[0-9:.]+(?:Z|\+00:00)"


def alike(answer, ticket, name):
    """An answer without what differs between two tickets: ids, numbers, digests of these, and times
    but for their order.
    """
    told = "\n".join(f"{each}: {answer.headers.get(each)}" for each in TELLING)
    text = f"{answer.status_code}\n{told}\n{answer.text}".replace(ticket, "TICKET")
    text = re.sub(r'"[0-9a-f]{32}"', '"HASH"', text)
    text = re.sub(rf"\b{name}\b", "REQUESTER", text)
    text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "ID", text)
    text = re.sub(r'etag: "[0-9a-f]{32}"', "etag: DIGEST", text)
    text = re.sub(r'"number":\d+|\bC-\d+', "NUMBER", text)
    text = re.sub(r'_seconds":\d+', '_seconds":N', text)
    times = sorted({*re.findall(_TIME, text)})
    text = re.sub(_TIME, lambda found: f"TIME {times.index(found[0])}", text)
    return re.sub(r'(cursor=|"next":")[^"&>]+', r"\1CURSOR", text)


@pytest_asyncio.fixture
async def twins(database):
    async with serving(database) as client:
        fields = {
            "floor": {"type": "integer", "public": True},
            "vip": {"type": "integer"},
            "room": {"type": "text"},
        }
        await client.put("/desk", json={"fields": fields}, headers=ADMIN)
        ids = []
        for name in ("bob", "eve"):
            for subject in ("first", "Printer jam", "last"):
                content: Any = {"body": "It jams.", "tags": ["paper"], "fields": {"floor": 3}}
                if name == "eve":
                    content["fields"] |= {"vip": 1, "room": "CANARY"}
                ticket = await opened(client, requester=name, subject=subject, **content)
                ids += [ticket] if subject == "Printer jam" else []
        mine, theirs = ids
        yield Twins(database, client, mine, theirs, await opened(client, requester="carol"))


async def looked(twins):
    """Ask by every route for reading, page after page."""
    await caught_up(twins.database, twins.store)
    for route, right in RIGHTS.items():
        method, _, path = route.partition(" ")
        if method != "GET" or "requester" not in right.roles:
            continue
        for query in QUERIES.get(route, [""]):
            answers = await twins.ask("GET", (f"{path}?{query}",) * 2)
            while all(links := [answer.links.get("next") for answer in answers]):
                answers = await twins.ask("GET", [link["url"] for link in links])


async def test_a_page_that_a_requester_has_is_not_changed_by_what_is_internal(twins):
    await caught_up(twins.database, twins.store)
    eve = as_("requester", "eve")
    page = await twins.client.get("/tickets", headers=eve)
    await twins.whispered()
    await caught_up(twins.database, twins.store)
    has = {**eve, "If-None-Match": page.headers["etag"]}
    assert (await twins.client.get("/tickets", headers=has)).status_code == 304


@pytest.mark.slow
async def test_two_tickets_that_differ_by_what_is_internal_are_the_same_to_requesters(twins):
    """Every route that requesters may ask, in every way that is said of it here."""
    await twins.whispered()
    await looked(twins)
    await twins.both("assign", {"assignee": "alice"})
    await twins.whispered()
    await twins.both("reply", {"body": "Try the other tray."})
    await twins.both("set_field", {"key": "floor", "value": 4})
    await twins.both("attach", FILE)
    await twins.whispered()
    await twins.both("update_status", {"status": "pending", "reason": "asked"})
    await twins.whispered()
    await looked(twins)
    for ending in ((), ("resolve",), ("resolve", "close")):
        for verb in ending:
            await twins.both(verb, {"resolution": "paper"} if verb == "resolve" else {})
        for route, right in RIGHTS.items():
            method, _, path = route.partition(" ")
            verb = path.rpartition("/")[2]
            if method == "GET" or "requester" not in right.roles or verb == "sign_in":
                continue
            await twins.whispered()
            for headers in HEADERS:
                body: Any = {"subject": "x", "requester": "{name}"}
                if verb in BODIES:
                    body = BODIES[verb]
                if path.startswith("/bulk/"):
                    body = {"tickets": ["{ticket}"], "command": body}
                said = json.dumps(body).replace("CANARY", f"said {path} {len(headers)}")
                await twins.ask(method, (path, path), headers, said)
        await looked(twins)
