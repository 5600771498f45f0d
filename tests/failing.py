"""Have the database server fail as it would in an outage, by its fail point."""

from contextlib import asynccontextmanager


@asynccontextmanager
async def failing(database, *commands, times=None, **how):
    """Have the server fail of commands inside the block, whoever sends them: of all, or of as many.

    `how`: `errorCode`, `errorLabels`, `closeConnection`, `blockConnection`, `writeConcernError`.
    """
    admin, point = database.client.admin, {"configureFailPoint": "failCommand"}
    mode = {"times": times} if times else "alwaysOn"
    data = {"failCommands": list(commands), **how}
    await admin.command({**point, "mode": mode, "data": data})
    try:
        yield
    finally:
        await admin.command({**point, "mode": "off"})
