"""What a requester sees of the console, in a real browser: their tickets, as conversations."""

import asyncio

from playwright.async_api import Route, expect

from tests.api.browsing import (
    browsing,
    keys_of,
    opened,
    page_of,
    serious_faults,
    served,
    set_up,
    sign_in,
    told,
)

__all__ = ["page_of", "served"]
pytestmark = browsing


async def sign_in_as_requester(page, database):
    """The page is theirs then, who are called soak-requester."""
    [key] = await keys_of(database, "requester")
    await sign_in(page, key)


async def test_a_requester_opens_a_ticket_talks_about_it_and_rates_it(served, page_of, database):
    phone = {"viewport": {"width": 320, "height": 640}}
    async with page_of(served, **phone) as page:
        await sign_in_as_requester(page, database)
        await expect(page.get_by_text("You have no tickets yet.")).to_be_visible()
        await page.get_by_role("button", name="New ticket").click()
        await page.get_by_label("In a few words").fill("It jams")
        await page.get_by_label("What happened?").fill("The printer on floor 3.")
        assert await serious_faults(page) == []
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("heading", name="It jams")).to_be_visible()
        await expect(page.locator(".message")).to_contain_text("The printer on floor 3.")
        ticket = page.url.rsplit("/", 1)[1]
        await told(served, ticket, "assign", {"assignee": "alice"})
        await told(served, ticket, "add_note", {"body": "A known fault."})
        await told(served, ticket, "reply", {"body": "Which printer?"})
        await told(served, ticket, "update_status", {"status": "pending", "reason": "The number"})
        await expect(page.get_by_text("Which printer?")).to_be_visible()  # by itself
        await expect(page.get_by_text("We need an answer from you. The number")).to_be_visible()
        await page.get_by_label("Message").fill("Number 7.")
        await page.reload()
        await expect(page.get_by_label("Message")).to_have_value("Number 7.")  # it is kept
        await page.get_by_role("button", name="Send the reply").click()
        await expect(page.locator(".message", has_text="Number 7.")).to_be_visible()
        await expect(page.get_by_label("Message")).to_have_value("")
        await told(served, ticket, "resolve", {"resolution": "Cleaned."})
        await expect(page.locator(".message", has_text="Cleaned.")).to_be_visible()
        await page.get_by_label("From 5, good, to 1, bad").select_option("5")
        await page.get_by_label("Anything to add?").fill("Thanks.")
        await page.get_by_role("button", name="Rate", exact=True).click()
        await expect(page.get_by_text("rated it 5 of 5")).to_be_visible()
        assert await serious_faults(page) == []
        assert await page.evaluate("document.documentElement.scrollWidth") <= 320
        await page.get_by_role("button", name="It is solved: close it").click()
        await page.get_by_role("button", name="No", exact=True).click()
        await expect(page.get_by_role("button", name="Really close it?")).to_have_count(0)
        await page.get_by_role("button", name="It is solved: close it").click()
        await page.get_by_role("button", name="Really close it?").click()
        await expect(page.locator(".badge", has_text="closed")).to_be_visible()
        await page.get_by_role("link", name="Your tickets").click()
        await expect(page.get_by_role("link", name="It jams")).to_be_visible()


async def test_a_requester_sees_no_trace_of_what_is_hidden(served, page_of, database):
    """A note is an event that they do not see, and is no other one's being first."""
    ticket = await opened(served, requester="soak-requester", fields={"floor": "3"})
    await opened(served, subject="Of somebody else")
    await told(served, ticket, "assign", {"assignee": "alice"})
    await told(served, ticket, "add_note", {"body": "A known fault."})
    async with page_of(served) as page:
        await sign_in_as_requester(page, database)
        await expect(page.get_by_role("link", name="Printer jam")).to_be_visible()
        await expect(page.get_by_role("link", name="Of somebody else")).to_have_count(0)
        await page.get_by_role("link", name="Printer jam").click()
        await page.get_by_label("Message").fill("It still jams.")
        await page.get_by_role("button", name="Send the reply").click()
        await expect(page.locator(".message", has_text="It still jams.")).to_be_visible()
        whole = await page.locator("main").inner_text()
        for hidden in ("#", "note", "known fault", "floor", "hash", "alice"):
            assert hidden not in whole, hidden
        await page.get_by_role("button", name="I need no more help: close it").click()
        await page.get_by_role("button", name="Really close it?").click()
        await expect(page.locator(".step", has_text="closed it")).to_be_visible()
        await page.get_by_label("Message").fill("It jams again.")
        await page.get_by_role("button", name="Send the reply").click()
        # In the ticket that goes on, of which it is the first message.
        await expect(page.locator(".message")).to_have_count(1)
        await expect(page.locator(".message")).to_contain_text("It jams again.")
        await expect(page.locator(".badge", has_text="received")).to_be_visible()


async def test_a_conversation_is_shown_even_if_it_is_not_known_what_can_be_done(
    served, page_of, database
):
    """And what can be done, once that is known."""
    ticket = await opened(served, requester="soak-requester")
    async with page_of(served) as page:
        await page.route("**/commands", lambda route: route.abort())
        await sign_in_as_requester(page, database)
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.locator(".message")).to_contain_text("It jams.")
        await page.unroute("**/commands")
        await expect(page.get_by_label("Message")).to_be_visible()


async def test_a_preview_is_cut_between_words_and_a_late_list_is_not_shown(
    served, page_of, database
):
    await opened(
        served, requester="soak-requester", body="The printer on the third floor jams again"
    )
    await opened(
        served, requester="soak-requester", body="It is the printer on the third floor which jams"
    )
    await opened(
        served,
        requester="soak-requester",
        body="It is the printer on the third floor that is jamming",
    )
    async with page_of(served) as page:
        held: asyncio.Future[Route] = asyncio.Future()

        async def hold(route):
            if held.done():
                await route.continue_()
            else:
                held.set_result(route)

        await sign_in_as_requester(page, database)
        await expect(page.locator(".requests .note")).to_have_text(
            [
                "It is the printer on the third floor that is …",
                "It is the printer on the third floor which jams",
                "The printer on the third floor jams again",
            ]
        )
        await page.route("**/tickets?*", hold)
        late = await held  # they are asked for every five seconds
        await page.get_by_label("Search").fill("again")
        await page.get_by_role("button", name="Find").click()
        await expect(page.locator(".requests a")).to_have_count(1)
        await page.evaluate(
            """() => {
              window.most = 0;
              const count = () => document.querySelectorAll(".requests a").length;
              new MutationObserver(() => (window.most = Math.max(window.most, count()))).observe(
                document.querySelector("main"), { childList: true, subtree: true });
            }"""
        )
        async with page.expect_response("**/tickets?*"):
            await late.continue_()
        async with page.expect_response("**/tickets?*"):
            pass
        await expect(page.locator(".requests a")).to_have_count(1)
        assert await page.evaluate("window.most") <= 1


async def test_a_field_that_the_desk_asks_for_is_asked_for(served, page_of, database):
    await set_up(served, database, fields={"floor": {"type": "text", "required_on": "open"}})
    async with page_of(served) as page:
        await sign_in_as_requester(page, database)
        await page.get_by_role("button", name="New ticket").click()
        await page.get_by_label("In a few words").fill("It jams")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_text("fill in text")).to_be_visible()
        await page.get_by_label("floor").fill("3")
        await page.get_by_role("button", name="Send").click()
        await expect(page.get_by_role("heading", name="It jams")).to_be_visible()
