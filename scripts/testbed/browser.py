"""The system's Chromium, by Playwright: to look at the console as its users do."""

import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from playwright.async_api import Browser, async_playwright

from scripts.cli import UsageError

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
"""Where it is; None: there is none."""


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """Run it without a window. Raises UsageError if it is not there."""
    if CHROMIUM is None:
        raise UsageError("there is no Chromium on the path")
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(
            # In a container it may have neither a sandbox nor much shared memory.
            executable_path=CHROMIUM,
            args=["--no-sandbox", "--disable-dev-shm-usage"],
        )
        yield browser
        await browser.close()
