"""Who a request comes from.

There is no authentication yet: a request says who acts in the header `Casebook-Actor`, as
`<role>:<id>` (`agent:alice`, `requester:bob`), and is believed. This is the one place to change.
"""

from typing import Annotated, cast, get_args

from fastapi import Depends, Header

from domain.errors import Unacceptable
from domain.events import Actor, Role

TIMEKEEPER = Actor("timekeeper", "system")
"""Who acts when nobody does. Its id is nobody else's, so that nobody uses up its keys."""
_ID_CHARACTERS = 200


async def actor(
    casebook_actor: Annotated[
        str,
        Header(
            alias="Casebook-Actor",
            description="Who acts, as `<role>:<id>`; role: requester, agent or system.",
            examples=["agent:alice"],
            json_schema_extra={"pattern": "^(requester|agent|system):"},
        ),
    ] = "agent:anonymous",
) -> Actor:
    """Read the acting person from the request. Raises Unacceptable.

    Async although it waits for nothing: FastAPI would run it in a thread, which costs more than
    the rest of the request.
    """
    role, _, name = casebook_actor.partition(":")
    name = name.strip()
    if role not in get_args(Role) or not name.isprintable() or not 0 < len(name) <= _ID_CHARACTERS:
        raise Unacceptable(
            "bad_actor",
            "Casebook-Actor must read <role>:<id>, role one of requester, agent, system",
        )
    if name == TIMEKEEPER.id:
        raise Unacceptable("bad_actor", f"the id {name} is the server's own")
    return Actor(name, cast("Role", role))


CurrentActor = Annotated[Actor, Depends(actor)]
