"""The console, in a real browser: what somebody who opens it sees, and can do."""

import asyncio
import os
from contextlib import asynccontextmanager
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any
from uuid import UUID

import orjson
import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import expect

from api.access.keys import KeyOrder, Keys
from api.access.links import SignInLinks
from api.access.scopes import Scope
from domain.actors import PrincipalRole
from eventstore.database import Database
from eventstore.event_document import to_document
from scripts.testbed.browser import CHROMIUM, chromium
from scripts.testbed.load import Connection, request
from scripts.testbed.promises import HEADERS, callers, free_port, let_in, ready
from tests.processes import process

STATIC = Path(__file__).parents[2] / "api" / "console" / "static"
expect.set_options(timeout=20_000)
KEY = HEADERS["Authorization"].removeprefix("Bearer ")
MARKUP = "<img src=x onerror=\"document.title='ta'+'ken'\"><b>bold</b>"
browsing = pytest.mark.skipif(
    CHROMIUM is None and "CI" not in os.environ, reason="there is no Chromium"
)


@pytest_asyncio.fixture
async def served(database, store):
    """A server over an empty database: its port."""
    port = free_port()
    settings = {"CASEBOOK_MONGODB_URL": database.url, "CASEBOOK_PORT": str(port)}
    async with process("scripts.serve", **settings):
        await ready(port)
        await let_in(database.url)
        yield port


@pytest_asyncio.fixture(scope="module")
async def page_of():
    """Gives pages of a server, each in a browser session of its own."""
    async with chromium() as browser:
        yield partial(new_page, browser)


@asynccontextmanager
async def new_page(browser, port, **options):
    """A page, which fails the test if anything on it does."""
    wrong = []
    context = await browser.new_context(base_url=f"http://127.0.0.1:{port}", **options)
    context.set_default_timeout(20_000)
    page = await context.new_page()
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.on(
        "console",
        lambda m: wrong.append(m.text) if "Content Security Policy" in m.text else None,
    )
    page.on("dialog", lambda dialog: wrong.append(dialog.message))
    await page.goto("/")
    try:
        yield page
    finally:
        await context.close()
    assert wrong == []


async def sign_in(page, key=KEY):
    await page.get_by_label("Key", exact=True).fill(key)
    await page.get_by_role("button", name="Enter").click()
    await expect(page.get_by_role("heading", level=1)).not_to_have_text("See the desk")


async def opened(port, **fields):
    content = {"subject": "Printer jam", "requester": "bob", "body": "It jams.", **fields}
    async with Connection(port, HEADERS) as connection:
        answer = await connection.post("/tickets", content, {"Prefer": "wait=20"})
    assert answer.status == 201, answer.body
    return answer.json()["ticket_id"]


async def told(port, ticket, verb, content):
    async with Connection(port, HEADERS) as connection:
        answer = await connection.post(f"/tickets/{ticket}/{verb}", content, {"Prefer": "wait=20"})
    assert answer.status == 200, answer.body


async def serious_faults(page):
    await page.evaluate(AXE_SCRIPT)
    found = await page.evaluate("axe.run()")
    return [
        (fault["id"], [node["html"][:120] for node in fault["nodes"]])
        for fault in found["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


def test_what_others_wrote_is_as_it_says():
    """Each vendored file is the one whose hash is written down."""
    from hashlib import sha256  # noqa: PLC0415

    said = (STATIC / "vendor" / "README.md").read_text()
    for path in (STATIC / "vendor").iterdir():
        if path.suffix in (".js", ".css"):
            assert sha256(path.read_bytes()).hexdigest() in said, path.name


def test_no_file_makes_markup_of_text():
    """All text is set as text; the policy forbids the rest, and this says it before a browser."""
    for path in STATIC.glob("*.js"):
        for word in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "eval("):
            assert word not in path.read_text(), (path.name, word)


@browsing
async def test_a_first_visit_without_a_key_says_how_to_get_one(served, page_of):
    async with page_of(served) as page:
        await expect(page.get_by_role("heading", name="See the desk")).to_be_visible()
        await page.get_by_text("Where do I get one?").click()
        await expect(page.get_by_text("casebook keys link sam supervisor")).to_be_visible()
        assert await serious_faults(page) == []
        await page.get_by_label("Key", exact=True).fill("casebook_wrong_key")
        await page.get_by_role("button", name="Enter").click()
        await expect(page.get_by_role("alert")).to_contain_text("unauthenticated")
        await sign_in(page)
        await expect(page.get_by_text("There are no tickets yet.")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()  # it is kept
        await page.get_by_role("button", name="Sign out").click()
        await page.reload()
        await expect(page.get_by_role("heading", name="See the desk")).to_be_visible()


@browsing
async def test_a_sign_in_link_lets_in_once(served, page_of, database):
    """Its code is gone from the address and from the history at once."""
    code = await SignInLinks(database, Keys(database)).make("operator", "supervisor")
    async with page_of(served) as page:
        await page.goto(f"/#{code}")
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()
        await expect(page.get_by_text("operator, supervisor")).to_be_visible()
        assert code not in page.url
        await page.reload()
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()
        await page.goto(f"/#{code}")  # again, by somebody who is in
        await expect(page.locator("#status")).to_have_text("the sign-in link was used before")
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()
        assert code not in page.url
    async with page_of(served) as page:
        await page.goto(f"/#{code}")
        await expect(page.get_by_role("heading", name="See the desk")).to_be_visible()
        await expect(page.get_by_role("alert")).to_contain_text("the sign-in link was used before")
        assert code not in page.url
        assert await serious_faults(page) == []


@browsing
async def test_demo_data_is_shown_on_any_past_day(served, page_of, database):
    async with process("scripts.demo", CASEBOOK_MONGODB_URL=database.url) as demo:
        assert await demo.wait() == 0
    past = str((await database.server_time() - timedelta(days=20)).date())
    async with page_of(served) as page:
        await sign_in(page)
        async with Connection(served, HEADERS) as connection:
            day: Any = (await connection.get(f"/dashboard?date={past}")).json()
        await page.get_by_label("As of the end of").fill(past)
        unsolved = page.locator(".tile.first dd")
        await expect(unsolved).to_contain_text(str(day["backlog"]["total"]))
        await expect(page.get_by_role("heading", name=f"On {past}")).to_be_visible()
        plot = page.locator("figure", has_text="Backlog")
        await plot.get_by_text("As a table").click()
        await expect(plot.get_by_role("row", name=past)).to_contain_text(
            str(day["backlog"]["total"])
        )
        assert await serious_faults(page) == []
        # Of some days there is nothing to draw; and from there one gets on.
        await page.get_by_label("As of the end of").fill("2001-01-01")
        await expect(page.get_by_text("No ticket had been opened by then.")).to_be_visible()
        await page.get_by_label("As of the end of").fill(past)
        await page.get_by_role("link", name="Tickets").click()
        await expect(page.locator(".row").first).to_be_visible()


@browsing
async def test_what_others_do_shows_by_itself(served, page_of):
    """Lists, the desk and a ticket, without anybody loading anything again."""
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await expect(page.locator(".tile.first dd")).to_contain_text("1")
        await opened(served, subject="Another jam")
        await expect(page.locator(".tile.first dd")).to_contain_text("2")
        await page.get_by_role("link", name="Tickets").click()
        await expect(page.get_by_role("link", name="Another jam")).to_be_visible()
        await opened(served, subject="A third one")
        await expect(page.get_by_role("link", name="A third one")).to_be_visible()
        assert await serious_faults(page) == []
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.locator(".event")).to_have_count(1)
        await told(served, ticket, "assign", {"assignee": "alice"})
        await expect(page.locator(".event")).to_have_count(2)
        await expect(page.get_by_text("assigned it to alice")).to_be_visible()


@browsing
async def test_the_slider_shows_a_ticket_as_it_was_and_each_hash_is_verified(
    served, page_of, store
):
    """L11: also that one event is not what was written."""
    ticket = await opened(served)
    await told(served, ticket, "assign", {"assignee": "alice"})
    await told(served, ticket, "change_priority", {"priority": "urgent"})
    await told(served, ticket, "add_note", {"body": "A known fault."})
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.get_by_text("✓ hash verified in this browser")).to_have_count(4)
        await expect(page.locator(".state")).to_contain_text("urgent")
        await page.get_by_label("As it was after event").fill("1")
        await expect(page.locator(".state")).to_contain_text("new")
        await expect(page.locator(".state")).not_to_contain_text("alice")
        await page.get_by_label("As it was after event").fill("2")
        await expect(page.locator(".state .changed", has_text="assignee")).to_contain_text("alice")
        assert await serious_faults(page) == []
        await page.get_by_role("button", name="As it is").click()
        await expect(page.locator(".state")).to_contain_text("urgent")
        [*_, last] = await store.load(next(iter([event async for event in store.scan()])).ticket_id)
        log = Database(store._database.url)
        forged = {**to_document(last)["data"], "priority": "low"}
        changed = {"ticket_id": last.ticket_id, "version": 3}
        await log.collection("ticket_events").update_one(changed, {"$set": {"data": forged}})
        await log.close()
        await page.reload()
        await expect(page.get_by_text("✗ this is not what was written")).to_be_visible()
        await expect(page.get_by_text("history was changed")).to_be_visible()


@browsing
async def test_a_refused_command_is_told_in_the_problems_words(served, page_of):
    ticket = await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto(f"/#/tickets/{ticket}")
        await page.get_by_label("Command").select_option("update_status")
        form = page.get_by_role("form", name="Update status")
        await form.get_by_label("status", exact=False).first.select_option("closed")
        await form.get_by_role("button", name="Update status").click()
        await expect(form.get_by_role("alert")).to_contain_text("cannot close by status; use close")
        assert await serious_faults(page) == []
        await page.get_by_label("Command").select_option("assign")
        form = page.get_by_role("form", name="Assign")
        await form.get_by_label("assignee").fill("")
        await form.get_by_role("button", name="Assign").click()
        await expect(form.locator(".fault").first).not_to_be_empty()
        await form.get_by_label("assignee").fill("alice")
        # Somebody else is first, and this page has not heard of it; what was typed stays.
        await page.route("**/timeline*", lambda route: route.abort())
        await told(served, ticket, "add_tags", {"tags": ["vip"]})
        await form.get_by_role("button", name="Assign").click()
        await expect(form.get_by_role("alert")).to_contain_text("Somebody else was first")
        await page.unroute("**/timeline*")
        await form.get_by_role("button", name="Assign").click()
        await expect(form.get_by_role("alert")).to_contain_text("Somebody else was first")
        await form.get_by_role("button", name="Assign").click()
        await expect(page.get_by_text("assigned it to alice")).to_be_visible()  # at once


@browsing
async def test_a_field_is_asked_for_as_the_desk_defines_it(served, page_of, database):
    kinds = {
        "due": {"type": "date"},
        "price": {"type": "decimal"},
        "parts": {"type": "choices", "choices": ["drum", "belt", "fuser"]},
    }
    ticket = await opened(served, fields={"mood": "bad"})
    [admin] = await callers(database.url, "admin")
    async with Connection(served, admin) as connection:
        content = orjson.dumps({"fields": kinds})
        answer = await connection.send(
            request("PUT", "/desk", content, {**admin, "If-Match": '"0"'})
        )
    assert answer.status == 200, answer.body
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto(f"/#/tickets/{ticket}")

        async def set_field(key, give):
            await page.get_by_label("Command").select_option("set_field")
            form = page.get_by_role("form", name="Set field")
            await form.get_by_label("key").select_option(key)
            await give(form.get_by_label("value"))
            await form.get_by_role("button", name="Set field").click()
            await expect(form).not_to_be_visible()

        await set_field("due", lambda value: value.fill("2026-03-01"))
        await set_field("price", lambda value: value.fill("12.50"))
        await set_field("parts", lambda value: value.select_option(["fuser", "drum"]))
        await set_field("mood", lambda value: value.fill(""))
        await expect(page.get_by_text("parts: drum, fuser")).to_be_visible()
        await expect(page.get_by_text("price: 12.5").first).to_be_visible()
        await expect(page.get_by_text("set mood to –")).to_be_visible()
        assert await serious_faults(page) == []


@browsing
async def test_a_replay_is_watched(served, page_of, database):
    for n in range(20):
        await opened(served, subject=f"Jam {n}")
    async with page_of(served) as page:
        await sign_in(page)
        await page.get_by_role("link", name="Machine").click()
        await expect(page.get_by_text("All that was written is shown.")).to_be_visible()
        await expect(page.locator(".cell")).to_have_count(64)
        await expect(page.locator(".plot canvas")).to_be_visible()
        await page.get_by_text("As a table").first.click()
        rates = page.get_by_role("region", name="Events folded a second, as a table")
        await expect(rates.get_by_role("row").nth(1)).to_be_visible()
        assert await serious_faults(page) == []
        async with process("scripts.replay", CASEBOOK_MONGODB_URL=database.url) as replay:
            await expect(page.get_by_text("A replay is at work")).to_be_visible()
            assert await replay.wait() == 0
        await expect(page.get_by_text("A replay is at work")).not_to_be_visible()


@browsing
async def test_a_parked_ticket_is_shown_with_its_error_and_repaired(served, page_of, database):
    """L7: once what it could not be folded for is mended."""
    ticket = await opened(served)
    [admin] = await callers(database.url, "admin")
    log = database.collection("ticket_events")
    first = {"ticket_id": UUID(ticket), "version": 1}
    before = await log.find_one(first)
    assert before is not None
    await log.update_one(first, {"$set": {"type": "Nonsense"}})
    async with Connection(served, admin) as connection:
        asked = await connection.post("/projections/repairs", {"ticket_id": ticket})
    assert asked.status == 202, asked.body
    async with page_of(served) as page:
        await sign_in(page, admin["Authorization"].removeprefix("Bearer "))
        row = page.get_by_role("region", name="Parked tickets").get_by_role("row", name=ticket)
        await expect(row).to_contain_text("Nonsense")
        assert await serious_faults(page) == []
        await log.update_one(first, {"$set": {"type": before["type"]}})
        await row.get_by_role("button", name="Repair").click()
        await expect(page.get_by_text("None: every ticket can be folded.")).to_be_visible()


@browsing
async def test_it_is_used_with_the_keyboard_alone(served, page_of):
    await opened(served)
    async with page_of(served) as page:
        await page.keyboard.type(KEY)  # the field has the focus
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()

        async def tab_to(name):
            passed = []
            for _ in range(60):
                await page.keyboard.press("Tab")
                focused = await page.evaluate(
                    "document.activeElement.matches('body, main') ? '' : "
                    "(document.activeElement.labels?.[0] ?? document.activeElement).textContent"
                )
                if name in focused:
                    return
                passed.append(focused)
            raise AssertionError((name, passed))

        await tab_to("Skip to the content")
        await page.keyboard.press("Enter")
        await expect(page.locator("main")).to_be_focused()
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()
        await tab_to("Skip to the content")
        await tab_to("Tickets")
        await page.keyboard.press("Enter")
        await tab_to("Printer jam")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Printer jam")).to_be_visible()
        await expect(page.get_by_label("Command")).to_be_visible()
        await tab_to("Command")
        await page.keyboard.type("Add note")
        form = page.get_by_role("form", name="Add note")
        await expect(form).to_be_visible()
        await expect(page.get_by_label("Command")).to_be_focused()  # one could go on to others
        await tab_to("body")
        await expect(form.get_by_label("body")).to_be_focused()
        await page.keyboard.type("By keyboard.")
        await page.keyboard.press("Tab")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("By keyboard.", exact=True)).to_be_visible()


@browsing
async def test_markup_in_a_ticket_is_text_everywhere(served, page_of):
    ticket = await opened(
        served,
        subject=MARKUP,
        body=MARKUP,
        requester=MARKUP,
        group=MARKUP,
        fields={"floor": MARKUP},
    )
    await told(served, ticket, "assign", {"assignee": MARKUP})
    await told(served, ticket, "add_note", {"body": MARKUP})
    async with page_of(served) as page:
        await sign_in(page)
        await expect(page.locator(".share", has_text="assignee")).to_contain_text("<b>bold</b>")
        for view in ("#/desk", "#/tickets", f"#/tickets/{ticket}", "#/machine"):
            await page.goto(f"/{view}")
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await asyncio.sleep(0.5)
            assert await page.locator("main img, main b").count() == 0, view
            assert "taken" not in await page.title()
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.get_by_role("heading", level=1)).to_have_text(f"C-1 {MARKUP}")
        await page.goto("/#/tickets")
        await expect(page.get_by_role("link", name=MARKUP)).to_be_visible()


async def see_all(page, views):
    """These views are offered, and each comes without trouble."""
    links = page.get_by_role("navigation").get_by_role("link")
    await expect(links).to_have_text(views)
    for view in views:
        await links.get_by_text(view).click()
        await expect(page.get_by_role("heading", level=1)).to_have_text(view)
        await expect(page.locator(".tile.first, .row, main .placeholder").first).to_be_visible()
        await expect(page.get_by_text("Loading")).to_have_count(0)
        await expect(page.locator(".trouble")).to_have_count(0)
    await links.first.click()


@browsing
async def test_each_role_is_shown_what_is_theirs(served, page_of, database):
    await opened(served, requester="soak-requester")
    await opened(served, subject="Of somebody else")
    roles: tuple[tuple[PrincipalRole, list[str]], ...] = (
        ("requester", ["Tickets"]),
        ("agent", ["Desk", "Tickets"]),
        ("auditor", ["Desk", "Tickets", "Machine"]),
        ("admin", ["Machine"]),
    )
    for role, views in roles:
        [headers] = await callers(database.url, role)
        async with page_of(served) as page:
            await sign_in(page, headers["Authorization"].removeprefix("Bearer "))
            await see_all(page, views)
            if role == "requester":
                await expect(page.get_by_role("link", name="Printer jam")).to_be_visible()
                await expect(page.get_by_role("link", name="Of somebody else")).to_have_count(0)
                await page.get_by_role("link", name="Printer jam").click()
                commands = page.get_by_label("Command").locator("option")
                await expect(commands).to_have_text(
                    [
                        *("choose …", "Reply", "Reopen", "Close", "Rate"),
                        *("Follow", "Unfollow", "Attach"),
                    ]
                )


@browsing
async def test_a_requester_answers_behind_what_they_are_not_shown(served, page_of, database):
    """A note is an event that they do not see, and is no other one's being first."""
    [headers] = await callers(database.url, "requester")
    ticket = await opened(served, requester="soak-requester")
    await told(served, ticket, "assign", {"assignee": "alice"})
    await told(served, ticket, "add_note", {"body": "A known fault."})
    async with page_of(served) as page:
        await sign_in(page, headers["Authorization"].removeprefix("Bearer "))
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.locator(".event")).to_have_count(2)
        await page.get_by_label("Command").select_option("reply")
        form = page.get_by_role("form", name="Reply")
        await form.get_by_label("body").fill("It still jams.")
        await form.get_by_role("button", name="Reply").click()
        await expect(page.locator("blockquote", has_text="It still jams.")).to_be_visible()


@browsing
async def test_requesters_are_helped_to_search_by_what_they_may_ask_for(served, page_of, database):
    """L12: each example that they are offered is answered, and so is each of all of them."""
    [headers] = await callers(database.url, "requester")
    for who in (headers["Authorization"].removeprefix("Bearer "), KEY):
        async with page_of(served) as page:
            await sign_in(page, who)
            await page.goto("/#/tickets")
            await page.get_by_text("How to search").click()
            help_ = page.locator(".help")
            if who != KEY:
                await expect(help_).not_to_contain_text("breached")
                await expect(help_).not_to_contain_text("due")
            for example in await help_.get_by_role("button").all():
                await page.get_by_label("Search").fill("")
                await example.click()
                async with page.expect_response(lambda r: "/tickets?" in r.url) as answered:
                    await page.get_by_role("button", name="Find").click()
                assert (await answered.value).status == 200, await example.text_content()


@browsing
async def test_a_key_is_shown_the_views_that_it_is_good_for(served, page_of, database):
    seen: tuple[tuple[Scope, list[str]], ...] = (
        ("operate", ["Machine"]),
        ("read", ["Desk", "Tickets"]),
    )
    for scope, views in seen:
        order = KeyOrder(principal="sam", role="supervisor", scopes=[scope])
        _, key = await Keys(database).make(order, "x")
        async with page_of(served) as page:
            await sign_in(page, key)
            await see_all(page, views)
    order = KeyOrder(principal="sam", role="supervisor", scopes=["write"])
    _, key = await Keys(database).make(order, "x")
    async with page_of(served) as page:
        await page.get_by_label("Key", exact=True).fill(key)
        await page.get_by_role("button", name="Enter").click()
        await expect(page.get_by_text("No view is for this key.")).to_be_visible()


@browsing
async def test_agents_of_groups_are_shown_theirs(served, page_of, database):
    [admin] = await callers(database.url, "admin")
    [agent] = await callers(database.url, "agent")
    desk = {"groups": {"print": ["soak-agent"], "network": []}}
    async with Connection(served, admin) as connection:
        answer = await connection.send(
            request("PUT", "/desk", orjson.dumps(desk), {**admin, "If-Match": '"0"'})
        )
    assert answer.status == 200, answer.body
    await opened(served, subject="Of print", group="print")
    await opened(served, subject="Of network", group="network")
    async with page_of(served) as page:
        await sign_in(page, agent["Authorization"].removeprefix("Bearer "))
        await expect(page.locator(".tile.first dd")).to_contain_text("of 1")
        await expect(page.get_by_label("Group").locator("option")).to_have_text(["print"])
        await page.get_by_role("link", name="Tickets").click()
        await expect(page.get_by_role("link", name="Of print")).to_be_visible()
        await expect(page.get_by_role("link", name="Of network")).to_have_count(0)


@browsing
async def test_nothing_moves_in_a_list_that_somebody_is_in(served, page_of):
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await page.get_by_role("link", name="Tickets").click()
        await page.get_by_role("link", name="Printer jam").focus()
        await opened(served, subject="Another jam")
        await expect(page.get_by_text("This list has changed.")).to_be_visible()
        await expect(page.locator(".row")).to_have_count(1)
        await page.get_by_role("button", name="Show it as it is now").click()
        await expect(page.locator(".row")).to_have_count(2)
        await expect(page.get_by_text("This list has changed.")).not_to_be_visible()


@browsing
async def test_what_changes_on_a_later_page_is_told(served, page_of):
    first = await opened(served, subject="The first one")
    async with Connection(served, HEADERS) as connection:
        for n in range(51):
            await connection.post("/tickets", {"subject": f"Jam {n}", "requester": "bob"})
    await opened(served, subject="The last one")
    async with page_of(served) as page:
        await sign_in(page)
        await page.get_by_role("link", name="Tickets").click()
        await expect(page.locator(".row")).to_have_count(50)
        await page.get_by_role("button", name="More").click()
        await expect(page.locator(".row")).to_have_count(53)
        await expect(page.get_by_text("53 tickets.")).to_be_visible()
        await told(served, first, "assign", {"assignee": "alice"})
        await expect(page.get_by_text("This list has changed.")).to_be_visible()
        await page.get_by_role("button", name="Show it as it is now").click()
        await expect(page.locator(".row")).to_have_count(50)
        assert await serious_faults(page) == []


@browsing
async def test_a_search_is_kept_in_the_address(served, page_of, database):
    """Also its order, and a saved view: it can be sent to somebody else."""
    await opened(served, subject="Printer jam")
    await opened(served, subject="Printer fire", priority="urgent")
    await opened(served, subject="Network down", priority="urgent")
    async with Connection(served, HEADERS) as connection:
        view = orjson.dumps({"priority": "urgent"})
        answer = await connection.send(request("PUT", "/views/burning", view, HEADERS))
    assert answer.status in (200, 201), answer.body
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/tickets")
        await page.get_by_label("View", exact=True).select_option("burning")
        await expect(page.locator(".row")).to_have_count(2)
        await page.get_by_label("Order").select_option("opened_at")
        await expect(page.locator(".row a").first).to_have_text("Printer fire")
        await page.get_by_label("Search").fill("printer")
        await page.get_by_role("button", name="Find").click()
        await expect(page.locator(".row")).to_have_count(1)
        address = page.url
        await page.goto("/#/desk")
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()
        await page.goto(address)
        await expect(page.locator(".row a")).to_have_text(["Printer fire"])
        await expect(page.get_by_label("Order")).to_have_value("opened_at")
        await expect(page.get_by_label("View", exact=True)).to_have_value("burning")
        await expect(page.get_by_label("Search")).to_have_value("printer")


@browsing
async def test_a_ticket_is_opened_as_it_would_be_without_the_console(served, page_of):
    """What is not chosen is as the API has it: of normal priority."""
    async with page_of(served) as page:
        await sign_in(page)
        await page.get_by_role("link", name="Tickets").click()
        await page.get_by_role("button", name="Open a ticket").click()
        form = page.get_by_role("form", name="Open a ticket")
        await form.get_by_label("subject").fill("By hand")
        await form.get_by_label("requester").fill("bob")
        await form.get_by_label("fields").fill("floor = 3\nroom=007")
        await form.get_by_role("button", name="Open a ticket").click()
        await expect(page.get_by_role("heading", name="By hand")).to_be_visible()
        await expect(page.locator(".title .priority-normal")).to_be_visible()
        await expect(page.locator(".state")).to_contain_text("floor: 3; room: 007")


@browsing
async def test_nothing_is_wider_than_a_phone(served, page_of):
    ticket = await opened(served, subject="A subject of which there is more than fits " * 4)
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    async with page_of(served, **phone) as page:
        await sign_in(page)
        for view in ("#/desk", "#/tickets", f"#/tickets/{ticket}", "#/machine"):
            await page.goto(f"/{view}")
            await expect(page.get_by_role("heading", level=1)).to_be_visible()
            await asyncio.sleep(0.5)
            wide = await page.evaluate("document.documentElement.scrollWidth")
            assert wide <= 360, view
            assert await serious_faults(page) == [], view


async def test_the_files_are_anybodys_and_the_rest_is_not(served):
    async with Connection(served) as connection:
        for path, status in (("/", 200), ("/console/console.js", 200), ("/console/no.js", 404)):
            answer = await connection.get(path)
            assert answer.status == status, path
        assert (await connection.get("/console/../tickets")).status in (401, 404)
        assert (await connection.get("/me")).status == 401
