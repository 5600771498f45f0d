"""The console in a real browser: servers to look at, pages, and what is done on all of them."""

import asyncio
import os
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import orjson
import pytest
import pytest_asyncio
from axe_playwright_python.base import AXE_SCRIPT
from playwright.async_api import expect

from scripts.testbed.browser import CHROMIUM
from scripts.testbed.harness import HEADERS, callers, free_port, let_in, ready
from scripts.testbed.load import Connection, request
from scripts.testbed.patience import patience
from tests.processes import process

STATIC = Path(__file__).parents[2] / "api" / "console" / "static"
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


@pytest.fixture
def page_of(browser):
    """Gives pages of a server, each in a browser session of its own."""
    return partial(new_page, browser)


@asynccontextmanager
async def new_page(browser, port, **options):
    """A page, which fails the test if anything on it does."""
    wrong = []
    context = await browser.new_context(base_url=f"http://127.0.0.1:{port}", **options)
    wait_milliseconds = patience(20) * 1000
    context.set_default_timeout(wait_milliseconds)
    expect.set_options(wait_milliseconds)
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
        await page.unroute_all(behavior="ignoreErrors")  # or one that is held would be waited for
        await context.close()
    assert wrong == []


async def sign_in(page, key=KEY):
    await page.get_by_label("Key", exact=True).fill(key)
    await page.get_by_role("button", name="Enter").click()
    # Drawn, and not only on its way: until then the address may still be set to that of a view.
    await expect(page.locator("h1").filter(has_not_text="Sign in")).to_be_visible()


async def held_back(page, pattern):
    """Hold back what is asked for at some addresses, until the event that is returned is set."""
    free = asyncio.Event()

    async def hold(route):
        await free.wait()
        await route.continue_()

    await page.route(pattern, hold)
    return free


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
    """Return what axe finds as the page is, and on a phone in the dark."""
    await page.evaluate(AXE_SCRIPT)
    seen = page.viewport_size
    found = await page.evaluate("axe.run()")
    await page.set_viewport_size({"width": 360, "height": 740})
    await page.emulate_media(color_scheme="dark")
    dark = await page.evaluate("axe.run()")
    await page.emulate_media(color_scheme="light")
    await page.set_viewport_size(seen)
    return [
        (fault["id"], [node["html"][:120] for node in fault["nodes"]])
        for fault in found["violations"] + dark["violations"]
        if fault["impact"] in ("serious", "critical")
    ]


async def set_up(served, database, **desk):
    """Set the desk up as its admin does."""
    [admin] = await callers(database.url, "admin")
    async with Connection(served, admin) as connection:
        content = orjson.dumps(desk)
        answer = await connection.send(
            request("PUT", "/desk", content, {**admin, "If-Match": '"0"'})
        )
    assert answer.status == 200, answer.body


async def keys_of(database, *roles):
    """Return new keys, one for each role; they are those of `soak-<role>`."""
    made = await callers(database.url, *roles)
    return [headers["Authorization"].removeprefix("Bearer ") for headers in made]
