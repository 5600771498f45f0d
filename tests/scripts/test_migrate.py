"""`casebook migrate`: what a version needs is there before its first process starts."""

import os

from pymongo.errors import OperationFailure

from api.app import create_app
from eventstore.log import EventStore
from eventstore.mongo.driver import maybe_await
from scripts import migrate
from scripts.cli import progress
from tests.failing import failing
from tests.processes import script


async def indexes(database):
    """Return the indexes of all collections outside the views."""
    found = {}
    for name in (database.name, f"{database.name}_keys"):
        namespace = database.client[name]
        for each in await maybe_await(namespace.list_collection_names()):
            found[name, each] = set(await namespace[each].index_information())
    return {where: each for where, each in found.items() if each > {"_id_"}}


async def test_a_server_that_starts_afterwards_makes_no_index(database):
    env = {**os.environ, "CASEBOOK_MONGODB_URL": database.url}
    for _ in range(2):  # it can be run again
        process = await script("scripts.migrate", env=env)
        out, err = await process.communicate()
        assert process.returncode == 0, err
        assert b"all indexes are there" in out
    made = await indexes(database)
    assert {"ticket_id_1_version_1", "recorded_at_1"} <= made[database.name, "ticket_events"]
    app = create_app(database, EventStore(database))
    async with app.router.lifespan_context(app):
        assert await indexes(database) == made


async def test_a_process_whose_user_may_make_no_index_names_what_does(database):
    """L1: of the log, no process's user may do more than find and insert."""
    env = {**os.environ, "CASEBOOK_MONGODB_URL": database.url, "CASEBOOK_PORT": "0"}
    async with failing(database, "createIndexes", errorCode=13):
        process = await script("scripts.serve", env=env)
        _, err = await process.communicate()
    assert process.returncode == 1
    assert b"lacks an index that this database user may not make: run `casebook migrate`" in err
    assert b"Traceback" not in err


async def test_an_index_that_is_being_built_shows_how_far_it_is(database, monkeypatch):
    """As MongoDB tells it; the embedded server tells nothing."""
    asked = []

    async def builds():
        yield {"command": {"createIndexes": "ticket_events"}, "progress": {"done": 3, "total": 7}}

    def aggregate(pipeline):
        asked.append(pipeline)
        if len(asked) == 2:
            raise OperationFailure("no such stage")
        return builds()

    admin = database.client.admin
    monkeypatch.setattr(admin, "aggregate", aggregate)
    monkeypatch.setattr(migrate, "_LOOK_SECONDS", 0)
    with progress() as bar:
        task = bar.add_task("the log", total=1, rate="")
        await migrate._show_builds(admin, bar, task)
        [shown] = bar.tasks
        assert (shown.completed, shown.total) == (3, 7)
    assert asked[0][0] == {"$currentOp": {"allUsers": True}}


async def test_an_index_is_known_by_its_command_or_by_what_the_server_says_of_it(database):
    far = {"progress": {"done": 3, "total": 7}}
    making, scanning = {"createIndexes": "x"}, "Index Build: scanning collection"
    shown = [{"command": making, **far}, {"command": {"$truncated": "..."}, "msg": scanning, **far}]
    others = [{"command": making}, {"command": {"find": "x"}, **far}]
    await database.collection("things").insert_many([*shown, *others])
    assert await database.collection("things").find(migrate._BUILDING).to_list() == shown
