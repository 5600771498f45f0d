"""Have the database server fail as it would in an outage, by its fail point."""

from contextlib import asynccontextmanager

import pytest
from pymongo.errors import OperationFailure

_COMMAND_NOT_FOUND = 59


@asynccontextmanager
async def failing(database, *commands, times=None, **how):
    """Have the server fail of commands inside the block, whoever sends them: of all, or of as many.

    `how`: `errorCode`, `errorLabels`, `closeConnection`, `blockConnection`, `writeConcernError`.
    """
    admin, point = database.client.admin, {"configureFailPoint": "failCommand"}
    mode = {"times": times} if times else "alwaysOn"
    data = {"failCommands": list(commands), **how}
    try:
        await admin.command({**point, "mode": mode, "data": data})
    except OperationFailure as error:
        if error.code == _COMMAND_NOT_FOUND:
            pytest.skip("the server takes no fail points: it wants enableTestCommands=1")
        raise
    try:
        yield
    finally:
        await admin.command({**point, "mode": "off"})
