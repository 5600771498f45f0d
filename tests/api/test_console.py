"""The console's frame: signing in, its views, who sees what, and what holds on every page."""

from playwright.async_api import expect

from api.access.keys import KeyOrder, Keys
from api.access.scopes import Scope
from api.access.sign_in_links import SignInLinks
from domain.actors import PrincipalRole
from scripts.testbed.harness import callers
from scripts.testbed.load import Connection
from tests.api.browsing import (
    KEY,
    MARKUP,
    STATIC,
    browsing,
    opened,
    page_of,
    serious_faults,
    served,
    sign_in,
    told,
)

__all__ = ["page_of", "served"]


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
        await expect(page.get_by_role("heading", name="Sign in", level=1)).to_be_visible()
        await page.get_by_text("Where do I get one?").click()
        await expect(page.get_by_text("casebook keys link sam supervisor")).to_be_visible()
        assert await serious_faults(page) == []
        await page.get_by_label("Key", exact=True).fill("casebook_wrong_key")
        await page.get_by_role("button", name="Enter").click()
        await expect(page.get_by_role("alert")).to_contain_text("unauthenticated")
        await sign_in(page)
        await expect(page.get_by_text("There are no tickets yet")).to_be_visible()
        await page.reload()
        await expect(page.get_by_role("heading", name="Desk")).to_be_visible()  # it is kept
        await page.get_by_role("button", name="Sign out").click()
        await page.reload()
        await expect(page.get_by_role("heading", name="Sign in", level=1)).to_be_visible()


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
        await expect(page.get_by_role("heading", name="Sign in", level=1)).to_be_visible()
        await expect(page.get_by_role("alert")).to_contain_text("the sign-in link was used before")
        assert code not in page.url
        assert await serious_faults(page) == []


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
        await expect(page.locator(".rows tbody tr")).to_have_count(1)
        await tab_to("Printer jam")
        await page.keyboard.press("Enter")
        await expect(page.get_by_role("heading", name="Printer jam")).to_be_visible()


def views_with(ticket):
    """Views, and what is there once each is drawn."""
    of_one = (f"#/tickets/{ticket}", ".write")
    return (("#/desk", ".shares th"), ("#/tickets", ".rows"), of_one, ("#/system", ".cell"))


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
        for view, drawn in views_with(ticket):
            await page.goto(f"/{view}")
            await expect(page.locator(drawn).first).to_be_visible()
            await expect(page.get_by_text("Loading")).to_have_count(0)
            assert await page.locator("main img, main b").count() == 0, view
            assert "taken" not in await page.title()
        await page.goto(f"/#/tickets/{ticket}")
        await expect(page.get_by_role("heading", level=1)).to_have_text(f"C-1 {MARKUP}")
        await page.goto("/#/tickets")
        await expect(page.get_by_role("link", name=MARKUP)).to_be_visible()


async def see_all(page, views):
    """These views are offered, and each comes without trouble."""
    links = page.get_by_role("navigation", name="Views").get_by_role("link")
    await expect(links).to_have_text(views)
    for view in views:
        await links.get_by_text(view).click()
        await expect(page.get_by_role("heading", level=1)).to_contain_text(view, ignore_case=True)
        await expect(
            page.locator(".tile.first, .rows, .welcome, .requests, main .placeholder").first
        ).to_be_visible()
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
        ("auditor", ["Desk", "Tickets", "System"]),
        ("admin", ["System"]),
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


@browsing
async def test_a_key_is_shown_the_views_that_it_is_good_for(served, page_of, database):
    seen: tuple[tuple[Scope, list[str]], ...] = (
        ("operate", ["System"]),
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
async def test_nothing_is_wider_than_a_phone(served, page_of):
    ticket = await opened(served, subject="A subject of which there is more than fits " * 4)
    phone = {"viewport": {"width": 360, "height": 740}, "color_scheme": "dark"}
    async with page_of(served, **phone) as page:
        await sign_in(page)
        for view, drawn in views_with(ticket):
            await page.goto(f"/{view}")
            await expect(page.locator(drawn).first).to_be_visible()
            await expect(page.get_by_text("Loading")).to_have_count(0)
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
