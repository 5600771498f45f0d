"""Take the pictures of the documents: each view of the console, by day, night and phone.

On a database of its own, with what `casebook demo` loads. Needs Chromium.
"""

import argparse
import asyncio
import os
import sys
from pathlib import Path

from playwright.async_api import Browser, Page, ViewportSize

from eventstore.personal.master_keys import new_master_key
from scripts.commands import parse
from scripts.console import run
from scripts.demo import STORY
from scripts.testbed.browser import chromium
from scripts.testbed.load import Connection
from scripts.testbed.promises import HEADERS, free_port, process, require, scratch, serving

_DOCS = Path(__file__).parents[2] / "docs"
_LOOKS: dict[str, ViewportSize] = {
    "light": {"width": 1280, "height": 860},
    "dark": {"width": 1280, "height": 860},
    "phone": {"width": 390, "height": 844},
}
_SEEN_AFTER = "9"
"""The version that the picture of a ticket shows: it has just been handed on."""


async def main(_: argparse.Namespace) -> int:
    os.environ.setdefault("CASEBOOK_MASTER_KEY", new_master_key())  # for all it starts
    port = free_port()
    async with chromium() as browser, scratch(durable=False) as url:
        settings = {"CASEBOOK_MONGODB_URL": url, "CASEBOOK_PORT": str(port)}
        async with serving("scripts.serve", port=port, url=url):
            async with process("scripts.demo", **settings) as demo:
                require(await demo.wait() == 0, "the demo is loaded")
            pages = [await _take(browser, port, look) for look in _LOOKS]
            async with Connection(port, HEADERS) as connection:
                opened = await connection.post("/tickets", {"subject": "Wiki", "requester": "eve"})
                for look, page in zip(_LOOKS, pages, strict=True):
                    await page.goto("/#/machine")
                    await page.locator(".cell").first.wait_for()
                    await _work(connection, str(opened.json()["ticket_id"]))
                    await _keep(page, "machine", look)
    return 0


async def _take(browser: Browser, port: int, look: str) -> Page:
    """Take the pictures of one look, but for the machine's, which has nothing to do yet."""
    context = await browser.new_context(
        base_url=f"http://127.0.0.1:{port}",
        viewport=_LOOKS[look],
        color_scheme="dark" if look == "dark" else "light",
        reduced_motion="reduce",
    )
    page = await context.new_page()
    await page.goto("/")
    await _keep(page, "sign-in", look)
    await page.get_by_label("Key", exact=True).fill(_key())
    await page.get_by_role("button", name="Enter").click()
    await page.locator("figure canvas").first.wait_for()
    await asyncio.sleep(1)  # the other plots come by themselves
    await _keep(page, "desk", look)
    await page.goto("/#/tickets")
    await page.locator(".row").first.wait_for()
    await _keep(page, "tickets", look)
    await page.goto(f"/#/tickets/{STORY}")
    await page.get_by_label("As it was after event").fill(_SEEN_AFTER)
    await page.get_by_label("Command").wait_for()
    await page.evaluate("document.activeElement.blur()")
    await _keep(page, "ticket", look)
    return page


def _key() -> str:
    """Return the key of the demo's supervisor."""
    return Path(os.environ["CASEBOOK_DATA_DIR"], "demo-supervisor-key").read_text().strip()


async def _work(connection: Connection, ticket: str) -> None:
    """Have something to be folded for some seconds."""
    for second in range(12):
        for n in range(1 + second * 7 % 10):
            await connection.post(f"/tickets/{ticket}/add_note", {"body": f"{second}, {n}"})
        await asyncio.sleep(1)


async def _keep(page: Page, view: str, look: str) -> None:
    await page.screenshot(path=_DOCS / "guides" / "console" / f"{view}-{look}.png")
    print(f"{view}-{look}.png", file=sys.stderr)


if __name__ == "__main__":
    run(main, parse("screenshots"))
