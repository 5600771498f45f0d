"""Make the indexes that this version needs, while the processes of the former one go on.

With an administrator's URL in CASEBOOK_MONGODB_URL, and the master key. Each process makes what is
missing when it starts, if its user may, and serves nobody until then: on a log of many million
events that takes long. This shows how far it is, and can be cut off and run again: MongoDB goes on
with an index that was begun, and takes commands meanwhile. Views of another shape are built by the
first projector of this version, or by `casebook replay`, beside those that are shown.
"""

import argparse
import asyncio
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress

from pydantic import BaseModel
from pymongo.read_concern import ReadConcern
from rich.progress import Progress, TaskID

from api.access.access_log import AccessLog
from api.webhooks.deliveries import Deliveries
from eventstore.background import background
from eventstore.log import EventStore
from eventstore.mongo.driver import Namespace, maybe_await
from eventstore.mongo.errors import OperationFailure
from projections.erasure.progress import Erasures
from scripts.cli import database, progress, start

_LOOK_SECONDS = 1.0
_BUILDING = {
    "$or": [{"command.createIndexes": {"$exists": True}}, {"msg": {"$regex": "^Index Build"}}],
    "progress.total": {"$gt": 0},
}
"""What the manual asks of currentOp for "Active Indexing Operations", where it tells how far."""


class _Far(BaseModel):
    done: int
    total: int


class _Build(BaseModel):
    progress: _Far


async def main(_: argparse.Namespace) -> int:
    async with database() as db:
        parts: Mapping[str, Callable[[], Awaitable[None]]] = {
            "the log": EventStore(db).prepare,
            "erasures": Erasures(db).prepare,
            "keys of persons": db.vault.prepare,
            "the access log": AccessLog(db).prepare,
            "deliveries of webhooks": Deliveries(db).prepare,
        }
        # What is under way is known of one server only, and refused where a majority is to know.
        admin = db.client.get_database("admin", read_concern=ReadConcern("local"))
        with progress() as bar:
            for name, prepare in parts.items():
                task = bar.add_task(name, total=1, rate="")
                async with background(_show_builds(admin, bar, task)):
                    await prepare()
                bar.update(task, total=1, completed=1, rate="")
        print("all indexes are there")
    return 0


async def _show_builds(admin: Namespace, bar: Progress, task: TaskID) -> None:
    """Show how far the index is that the database builds, where it tells."""
    with suppress(OperationFailure):
        while True:
            asked = admin.aggregate([{"$currentOp": {"allUsers": True}}, {"$match": _BUILDING}])
            async for each in await maybe_await(asked):
                far = _Build.model_validate(each).progress
                bar.update(task, completed=far.done, total=far.total, rate="documents")
            await asyncio.sleep(_LOOK_SECONDS)


if __name__ == "__main__":
    start("migrate", main)
