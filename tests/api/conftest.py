"""One browser for all tests of a process that look at the console."""

import pytest_asyncio

from scripts.testbed.browser import chromium


@pytest_asyncio.fixture(scope="session")
async def browser():
    """The system's Chromium; each page has a session of its own (`browsing.page_of`)."""
    async with chromium() as one:
        yield one
