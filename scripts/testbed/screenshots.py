"""Take the pictures of docs/guides/console.md: each view of the console, by day, night and phone.

On a database of its own, with the sample log and a ticket's made-up life. Needs Chromium.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from playwright.async_api import Browser, Page, ViewportSize

from domain.values import JsonObject
from eventstore.personal.master_keys import new_master_key
from scripts.commands import parse
from scripts.console import run
from scripts.testbed.browser import chromium
from scripts.testbed.load import Connection
from scripts.testbed.promises import HEADERS, accepted, free_port, process, scratch, serving

_FOLDER = Path(__file__).parents[2] / "docs" / "guides" / "console"
_DAY = "2016-03-31"
_LOOKS: dict[str, ViewportSize] = {
    "light": {"width": 1280, "height": 860},
    "dark": {"width": 1280, "height": 860},
    "phone": {"width": 390, "height": 844},
}
_OPENING: JsonObject = {
    "subject": "The printer on the third floor jams",
    "body": "It jams on every page, whatever the tray.",
    "requester": "bob",
    "group": "hardware",
    "tags": ["paper"],
}
_LIFE: tuple[tuple[str, JsonObject], ...] = (
    ("assign", {"assignee": "alice"}),
    ("reply", {"body": "Thank you, Bob. Does it jam from the second tray too?"}),
    ("update_status", {"status": "pending", "reason": "waits for an answer"}),
    ("add_note", {"body": "A known fault of this series: the part is in stock."}),
    ("change_priority", {"priority": "high"}),
    ("set_field", {"key": "floor", "value": 3}),
    ("update_status", {"status": "open"}),
    ("resolve", {"resolution": "A new drum; it prints again."}),
)


async def main(_: argparse.Namespace) -> int:
    _FOLDER.mkdir(exist_ok=True)
    os.environ.setdefault("CASEBOOK_MASTER_KEY", new_master_key())  # for all it starts
    async with chromium() as browser, _served() as (port, connection):
        busy = await connection.post("/tickets", {"subject": "Wiki", "requester": "eve"})
        opened = await connection.post("/tickets", _OPENING)
        ticket = str(opened.json()["ticket_id"])
        for verb, content in _LIFE:
            path = f"/tickets/{ticket}/{verb}"
            accepted(await connection.post(path, content, {"Prefer": "wait=20"}))
        for look in _LOOKS:
            await _take(browser, port, ticket, str(busy.json()["ticket_id"]), look)
    return 0


@asynccontextmanager
async def _served() -> AsyncIterator[tuple[int, Connection]]:
    """Serve the sample log; return the port, and a connection to it."""
    async with scratch(durable=False) as url:
        port = free_port()
        settings = {"CASEBOOK_MONGODB_URL": url, "CASEBOOK_PORT": str(port)}
        async with serving("scripts.serve", port=port, url=url, **settings):
            async with process("scripts.demo", **settings) as demo:
                await demo.wait()
            async with Connection(port, HEADERS) as connection:
                yield port, connection


async def _take(browser: Browser, port: int, ticket: str, busy: str, look: str) -> None:
    """Take the pictures of one look: the ticket's, and the machine's while another is busy."""
    context = await browser.new_context(
        base_url=f"http://127.0.0.1:{port}",
        viewport=_LOOKS[look],
        color_scheme="dark" if look == "dark" else "light",
        reduced_motion="reduce",
    )
    page = await context.new_page()
    await page.goto("/")
    await _keep(page, "sign-in", look)
    await page.get_by_label("Key", exact=True).fill(HEADERS["Authorization"].split()[1])
    await page.get_by_role("button", name="Enter").click()
    await page.get_by_label("As of the end of").fill(_DAY)
    await page.get_by_role("heading", name=f"On {_DAY}").wait_for()
    await asyncio.sleep(1)  # the plots come by themselves
    await page.evaluate("document.activeElement.blur()")
    await _keep(page, "desk", look)
    await page.goto("/#/tickets")
    await page.locator(".row").first.wait_for()
    await _keep(page, "tickets", look)
    await page.goto(f"/#/tickets/{ticket}")
    await page.locator(".event").nth(len(_LIFE)).wait_for()
    await page.get_by_label("As it was after event").fill("4")
    await page.evaluate("document.activeElement.blur()")
    await _keep(page, "ticket", look)
    await page.goto("/#/machine")
    await page.locator(".cell").first.wait_for()
    await _work(port, busy)
    await _keep(page, "machine", look)
    await context.close()


async def _work(port: int, ticket: str) -> None:
    """Have something to be folded for some seconds."""
    async with Connection(port, HEADERS) as connection:
        for second in range(12):
            for n in range(1 + second * 7 % 10):
                await connection.post(f"/tickets/{ticket}/add_note", {"body": f"{second}, {n}"})
            await asyncio.sleep(1)


async def _keep(page: Page, view: str, look: str) -> None:
    await page.screenshot(path=_FOLDER / f"{view}-{look}.png")
    print(f"{view}-{look}.png", file=sys.stderr)


if __name__ == "__main__":
    run(main, parse("screenshots"))
