"""The console's system pages, in a real browser: what an operator and an admin see and do there."""

from typing import Any
from uuid import UUID

import orjson
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from playwright.async_api import APIResponse, expect

from api.access.keys import KeyOrder, Keys
from api.access.scopes import Scope
from domain.actors import PrincipalRole
from eventstore.transparency.checkpoints import LogCheckpoints
from projections.generations import Ended, Generations
from scripts.testbed.harness import callers
from scripts.testbed.load import Connection
from tests.api.browsing import (
    KEY,
    browsing,
    keys_of,
    opened,
    page_of,
    serious_faults,
    served,
    set_up,
    sign_in,
)
from tests.processes import process
from tests.spec import NOW

__all__ = ["page_of", "served"]
pytestmark = browsing


async def test_a_replay_is_watched_and_its_proof_seen_with_the_keyboard_alone(
    served, page_of, database
):
    for n in range(20):
        await opened(served, subject=f"Jam {n}")
    async with page_of(served) as page:
        await page.keyboard.type(KEY)  # the field has the focus
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()

        async def tab_to(name):
            for _ in range(120):
                await page.keyboard.press("Tab")
                focused = await page.evaluate(
                    "document.activeElement.matches('body, main') ? '' : "
                    "document.activeElement.textContent"
                )
                if name in focused:
                    return
            raise AssertionError(name)

        await tab_to("System")
        await page.keyboard.press("Enter")
        await expect(page.get_by_text("None yet.", exact=False)).to_be_visible()
        async with process("scripts.replay", CASEBOOK_MONGODB_URL=database.url) as replay:
            await expect(page.get_by_text("A replay is at work")).to_be_visible()
            assert await replay.wait() == 0
        await expect(page.get_by_text("All views were built anew, and are shown.")).to_be_visible()
        await expect(page.get_by_text("A replay is at work")).not_to_be_visible()
        proof = page.locator(".replay .props > div", has_text="proof")
        await expect(proof).to_contain_text("20 read documents")
        await expect(proof).to_contain_text("all were equal")
        await tab_to("How long each phase took")
        await page.keyboard.press("Enter")
        for phase in ("scan", "tail", "prove", "switch", "hand over"):
            await expect(page.locator(".replay dt", has_text=phase)).to_be_visible()
        assert await serious_faults(page) == []
        await page.reload()
        await expect(page.get_by_text("All views were built anew, and are shown.")).to_be_visible()


async def test_one_sentence_says_up_to_when_the_views_show_all(served, page_of):
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await page.get_by_role("link", name="System").click()
        said = page.locator(".condition").first
        await expect(said).to_contain_text("The views are current: they show all that was recorded")
        await expect(said).to_contain_text("s ago.")
        await expect(page.get_by_text("behind by")).to_have_count(0)
        await expect(page.locator(".cell")).to_have_count(64)
        await expect(page.locator(".plot canvas")).to_be_visible()
        await page.get_by_text("As a table").first.click()
        rates = page.get_by_role("region", name="Events folded a second, as a table")
        await expect(rates.get_by_role("row").nth(1)).to_be_visible()
        assert await serious_faults(page) == []


async def test_a_checkpoint_says_what_it_covers_and_what_not_yet(
    served, page_of, database, store, tmp_path
):
    await opened(served)
    key = Ed25519PrivateKey.generate()
    await LogCheckpoints(database, store, key, tmp_path / "last").take()
    await opened(served)
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/system/projections")
        await expect(page.get_by_text("1 events of 1 tickets", exact=True)).to_be_visible()
        await expect(page.get_by_text("1 events that were recorded since")).to_be_visible()


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


async def test_a_key_is_made_shown_once_and_revoked(served, page_of, database):
    async with page_of(served) as page:
        [admin] = await keys_of(database, "admin")
        await sign_in(page, admin)
        await page.get_by_role("link", name="Keys").click()
        await page.get_by_role("button", name="Make a key").click()
        form = page.get_by_role("form", name="Make a key")
        await form.get_by_role("button", name="Make a key").click()
        field = form.locator(".field", has_text="principal")
        await expect(field.locator(".fault")).not_to_be_empty()  # told where it is missing
        await field.get_by_role("textbox").fill("alice")
        await form.get_by_label("role").select_option("agent")
        assert await serious_faults(page) == []
        await page.route("**/keys", lambda route: route.abort())
        await form.get_by_role("button", name="Make a key").click()
        await expect(form).to_contain_text("look before you send it again")  # or there are two
        await page.unroute("**/keys")
        await form.get_by_role("button", name="Make a key").click()
        made = await page.locator(".secret code").inner_text()
        async with Connection(served, {"Authorization": f"Bearer {made}"}) as connection:
            assert (await connection.get("/me")).json()["id"] == "alice"
            row = page.get_by_role("row", name="alice")
            await row.get_by_role("button", name="Revoke").click()
            await row.get_by_role("button", name="Really revoke the key of alice?").click()
            await expect(row).to_contain_text("revoked")


async def test_a_webhook_is_added_and_its_deliveries_are_seen(served, page_of):
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/system/webhooks")
        await page.get_by_role("button", name="Add a webhook").click()
        form = page.get_by_role("form", name="Add a webhook")
        await form.get_by_label("url").fill("mailto:bob@example.org")
        await form.get_by_role("button", name="Add a webhook").click()
        fault = form.locator(".field", has_text="url").locator(".fault").first
        await expect(fault).to_contain_text("https://example.org/casebook")
        await form.get_by_label("url").fill("http://127.0.0.1:9/casebook")
        await form.get_by_label("TicketOpened").check()
        assert await serious_faults(page) == []
        await form.get_by_role("button", name="Add a webhook").click()
        await expect(page.locator(".secret")).to_contain_text("The secret of its signatures")
        await opened(served)
        await page.get_by_role("button", name="Deliveries").click()
        found = page.get_by_role("region", name="Deliveries")
        await expect(found).to_contain_text("TicketOpened")  # by itself, once it is to be sent
        await page.get_by_label("Which").select_option("delivered")
        await expect(page.get_by_text("There are none.").first).to_be_visible()
        await page.get_by_role("button", name="Delete").click()
        await page.get_by_role("button", name="Really delete it and its deliveries?").click()
        await expect(page.get_by_text("There are none.").first).to_be_visible()


def without_nulls(value):
    if not isinstance(value, dict):
        return value
    return {key: without_nulls(each) for key, each in value.items() if each is not None}


async def test_the_desk_is_set_up_by_forms_that_say_where_a_fault_is(served, page_of, database):
    [admin] = await callers(database.url, "admin")
    async with page_of(served) as page:
        await sign_in(page, admin["Authorization"].removeprefix("Bearer "))
        await page.goto("/#/system/desk")
        form = page.get_by_role("form", name="Save the set-up")
        await form.get_by_text("groups (0)").first.click()
        await form.get_by_role("button", name="Add to groups").first.click()
        await form.get_by_label("name in groups").first.fill("print")
        await form.get_by_label("agents").first.fill("Miller, Ann\nbob")
        await form.get_by_text("fields (0)").first.click()
        await form.get_by_role("button", name="Add to fields").first.click()
        await form.get_by_label("name in fields").first.fill("cause")
        await form.get_by_label("type", exact=False).first.select_option("choice")
        await form.get_by_role("button", name="Save the set-up").click()
        fault = form.locator(".fault", has_text="a choice or several have choices")
        await expect(fault).to_be_visible()
        await form.get_by_label("choices").first.fill("toner\npaper")
        high = form.get_by_role("group", name="high")
        await high.get_by_label("first response minutes").fill("30")
        assert await serious_faults(page) == []
        await form.get_by_role("button", name="Save the set-up").click()
        await expect(page.get_by_text("Saved as version 1.")).to_be_visible()
        async with Connection(served, admin) as connection:
            answer: Any = (await connection.get("/desk")).json()
        desk = answer["desk"]
        assert desk["groups"] == {"print": ["Miller, Ann", "bob"]}
        assert desk["fields"]["cause"]["choices"] == ["toner", "paper"]
        assert desk["sla"]["high"]["first_response_minutes"] == 30
        # The same for experts; and what was not touched stays as it is.
        form = page.get_by_role("form", name="Save the set-up")
        await form.get_by_role("button", name="As JSON").click()
        text = form.get_by_label("The same as JSON")
        shown = orjson.loads(await text.input_value())
        assert shown == without_nulls(desk)
        await text.fill("{")
        await form.get_by_role("button", name="Save the set-up").click()
        await expect(form.get_by_role("alert")).to_contain_text("JSON")
        await text.fill(orjson.dumps({**shown, "close_resolved_after_days": 7}).decode())
        await form.get_by_role("button", name="Save the set-up").click()
        await expect(page.get_by_text("Saved as version 2.")).to_be_visible()


async def test_a_set_up_whose_answer_was_lost_is_saved_by_sending_it_again(
    served, page_of, database
):
    """It is not told that it was changed meanwhile: that was this."""
    [admin] = await keys_of(database, "admin")
    async with page_of(served) as page:
        lost: list[APIResponse] = []

        async def lose(route):
            if route.request.method == "PUT" and not lost:
                lost.append(await route.fetch())
                await route.abort()
            else:
                await route.continue_()

        await sign_in(page, admin)
        await page.goto("/#/system/desk")
        form = page.get_by_role("form", name="Save the set-up")
        await form.get_by_label("close resolved after days").fill("7")
        await page.route("**/desk", lose)
        await form.get_by_role("button", name="Save the set-up").click()
        await expect(form.get_by_role("alert")).to_contain_text("It is not known")
        await form.get_by_role("button", name="Save the set-up").click()
        await expect(page.get_by_text("Saved as version 1.")).to_be_visible()


async def test_two_faults_at_one_place_are_both_told(served, page_of, database):
    [admin] = await keys_of(database, "admin")
    async with page_of(served) as page:
        await sign_in(page, admin)
        await page.goto("/#/system/desk")
        form = page.get_by_role("form", name="Save the set-up")
        await form.get_by_text("fields (0)").first.click()
        await form.get_by_role("button", name="Add to fields").first.click()
        await form.get_by_label("name in fields").first.fill("Root cause!")
        await form.get_by_label("type").first.select_option("choice")
        await form.get_by_role("button", name="Save the set-up").click()
        entry = form.locator(".entries > li").first
        await expect(entry).to_contain_text("a choice or several have choices")
        await expect(entry).to_contain_text("lower-case letters, digits and _")


async def test_a_group_that_is_in_use_is_taken_away_once_it_is_said_where_its_tickets_go(
    served, page_of, database
):
    await set_up(served, database, groups={"print": ["alice"], "network": ["bob"]})
    await opened(served, group="print")
    [admin] = await keys_of(database, "admin")
    async with page_of(served) as page:
        await sign_in(page, admin)
        await page.goto("/#/system/desk")
        form = page.get_by_role("form", name="Save the set-up")
        await form.get_by_text("groups (2)").click()
        first = form.locator(".entries > li").first
        assert await first.get_by_label("name in groups").input_value() == "print"
        await first.get_by_role("button", name="Remove").click()
        await form.get_by_role("button", name="Save the set-up").click()
        retired = form.get_by_role("group", name="What becomes of what is gone")
        await expect(retired.get_by_text("1 ticket, such as")).to_be_visible()
        await retired.get_by_role("button", name="Add to groups").click()
        await retired.get_by_label("name in groups").fill("print")
        await retired.get_by_label("its tickets go to").fill("network")
        await form.get_by_role("button", name="Save the set-up").click()
        await expect(page.get_by_text("Saved as version 2.")).to_be_visible()


async def test_a_person_is_erased_and_it_is_seen_how_far_that_has_come(served, page_of, database):
    await opened(served, requester="bob@example.org")
    async with page_of(served) as page:
        [admin] = await keys_of(database, "admin")
        await sign_in(page, admin)
        await page.get_by_role("link", name="Erasures").click()
        await expect(page.get_by_text("Nobody has been erased.")).to_be_visible()
        # Whom one asked for first is not shown for whom one asks for now.
        held = []

        async def hold(route):
            held.append(route)

        await page.route("**/persons/find", hold)
        for name in ("soak", "bob@example.org"):
            await page.get_by_label("Name, as it stands on tickets").fill(name)
            async with page.expect_request("**/persons/find"):
                await page.get_by_role("button", name="Find").click()
        for route in reversed(held):
            async with page.expect_response("**/persons/find"):
                await route.continue_()
        await expect(page.locator(".props")).to_contain_text("bob@example.org")
        await page.get_by_role("button", name="Erase …").click()
        await page.get_by_role("button", name="Really? It cannot be undone").click()
        await page.get_by_label("reason").fill("They asked for it.")
        assert await serious_faults(page) == []
        await page.get_by_role("button", name="Erase bob@example.org for good").click()
        row = page.get_by_role("region", name="Erasures").get_by_role("row").nth(1)
        # It is complete when nothing that read the key may hold it any more, after a while.
        await expect(row.locator("time").nth(1)).to_be_visible()
        await expect(page.get_by_text("bob@example.org", exact=True)).to_have_count(0)


async def test_a_replay_that_failed_says_why(served, page_of, database):
    await opened(served)
    generations = Generations(database)
    await generations.keep_ended(
        Ended(NOW, NOW, "rebuild", "not shown, for 1 things differ from the log: status")
    )
    async with page_of(served) as page:
        await sign_in(page)
        await page.goto("/#/system/projections")
        await expect(page.get_by_text("It failed, and what is shown is what was")).to_contain_text(
            "not shown, for 1 things differ from the log: status"
        )
        await expect(page.get_by_text("nothing was compared")).to_be_visible()
        assert await serious_faults(page) == []


async def test_a_key_for_one_part_of_the_system_is_shown_that_part(served, page_of, database):
    parts: tuple[tuple[PrincipalRole, Scope, str], ...] = (
        ("supervisor", "feed", "Webhooks"),
        ("admin", "keys", "Keys"),
        ("admin", "persons", "Erasures"),
    )
    for role, scope, part in parts:
        order = KeyOrder(principal="sam", role=role, scopes=[scope])
        _, key = await Keys(database).make(order, "x")
        async with page_of(served) as page:
            await sign_in(page, key)
            shown = page.get_by_role("navigation", name="System").get_by_role("link")
            await expect(shown).to_have_text([part])
            await expect(page.locator(".trouble")).to_have_count(0)


async def test_no_page_is_wider_than_a_phone(served, page_of, database):
    await opened(served, requester="soak-requester", subject="A_long_word_" * 30)
    admin, requester = await keys_of(database, "admin", "requester")
    pages = {
        KEY: ("system/projections", "system/webhooks", "system/desk", "desk"),
        admin: ("system/desk", "system/keys", "system/erasures"),
        requester: ("tickets",),
    }
    for key, views in pages.items():
        async with page_of(served, viewport={"width": 320, "height": 640}) as page:
            await sign_in(page, key)
            for view in views:
                await page.goto(f"/#/{view}")
                await expect(page.get_by_role("heading", level=1)).to_be_visible()
                await expect(page.get_by_text("Loading")).to_have_count(0)
                wide = await page.evaluate("document.documentElement.scrollWidth")
                assert wide <= 320, view
                assert await serious_faults(page) == [], view
