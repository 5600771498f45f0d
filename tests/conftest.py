"""Fixtures: one real database server for the whole run, a fresh database for every test but those
that only look.
"""

import hashlib
import os
from collections.abc import AsyncIterator
from functools import cache
from itertools import count
from uuid import uuid4

import pytest
import pytest_asyncio
from hypothesis import HealthCheck, settings

from api.settings import Settings
from eventstore.database import Database
from eventstore.gc_tuning import tune_gc
from eventstore.log import EventStore
from eventstore.mongo import embedded
from eventstore.mongo.driver import DriverName
from eventstore.personal.master_keys import new_master_key
from projections.generations import FIRST, Generations
from scripts.testbed.wire import database_at
from tests.memory import MemoryDatabase
from tests.scratch import (  # noqa: F401 pytest calls them
    pytest_configure,
    pytest_sessionfinish,
    pytest_unconfigure,
)

DRIVER = Settings.from_environment().mongo_driver
_numbers = count(1)

# One for all tests and for the processes that they start.
os.environ["CASEBOOK_MASTER_KEY"] = new_master_key()

# The drivers derive a key of the server's password for each client, some ms of a processor: of one
# password it is always the same.
pytest.MonkeyPatch().setattr("hashlib.pbkdf2_hmac", cache(hashlib.pbkdf2_hmac))

# How long an example takes, or is thought up, is the machine's affair. And our fixtures may be
# shared by the examples of a test: the log just grows.
settings.register_profile(
    "casebook",
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)
settings.load_profile("casebook")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Begin with what waits more than it works, or takes longest: others can be run meanwhile."""
    first = ("test_soak.py", "test_database_commands.py", "test_planted_bugs.py", "test_limits.py")
    items.sort(key=lambda item: item.path.name not in first)
    if DRIVER == "pymongo":
        # It leaves a socket to the garbage collector if it is cancelled while it connects.
        for item in items:
            item.add_marker(pytest.mark.filterwarnings("ignore:unclosed <socket:ResourceWarning"))


def pytest_collection_finish() -> None:
    """Look for garbage as a server does: else a tenth of the time goes by in what is imported."""
    tune_gc()


@pytest_asyncio.fixture(scope="session")
async def server_url(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[str]:
    """Where a database listens: CASEBOOK_TEST_MONGODB_URL, or an embedded one."""
    given = os.environ.get("CASEBOOK_TEST_MONGODB_URL")
    if given:
        yield given
        return
    async with embedded.run(tmp_path_factory.mktemp("server"), durable=False) as url:
        yield url


async def fresh(server_url: str, driver: DriverName = DRIVER) -> AsyncIterator[Database]:
    name = f"test_{uuid4().hex[:8]}_{next(_numbers)}"
    database = Database(database_at(server_url, name), driver)
    # As it is with the first generation of views, which is the one that is shown in most tests.
    yield FIRST.of(database)
    if "CASEBOOK_TEST_MONGODB_URL" not in os.environ:
        # What killed processes have left open would keep the server from dropping anything.
        await database.client.admin.command("killAllSessions", [])
    for each in (name, f"{name}_keys", f"{name}_views"):
        await database.client.drop_database(each)
    await database.close()


@pytest_asyncio.fixture
async def database(server_url: str) -> AsyncIterator[Database]:
    """An empty database, by the driver that CASEBOOK_MONGO_DRIVER names."""
    async for one in fresh(server_url):
        yield one


@pytest_asyncio.fixture(scope="module")
async def shared_database(server_url: str) -> AsyncIterator[Database]:
    """A database that the tests of a module share: once it is filled, none may change it."""
    async for one in fresh(server_url):
        yield one


@pytest_asyncio.fixture(params=["motor", "pymongo"])
async def any_database(server_url: str, request: pytest.FixtureRequest) -> AsyncIterator[Database]:
    """An empty database, once by each driver."""
    async for one in fresh(server_url, request.param):
        yield one


@pytest_asyncio.fixture
async def quick_database(server_url: str) -> AsyncIterator[Database]:
    """An empty database, by the quicker driver: for tests that do a great deal."""
    async for one in fresh(server_url, "pymongo"):
        yield one


@pytest_asyncio.fixture
async def store(database: Database) -> EventStore:
    """An empty log; its views are prepared, where there are any."""
    made = EventStore(database)
    await made.prepare()
    if isinstance(database, Database):
        await Generations(database).prepare()
    return made


@pytest.fixture
def memory() -> MemoryDatabase:
    """An empty database in memory: what a module calls `database` where only logic is tested."""
    return MemoryDatabase()
