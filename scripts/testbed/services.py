"""The services that are measured: Casebook, and what one would write otherwise."""

from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from functools import partial
from uuid import uuid4

import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, Request, Response
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.app import access_by, create_app
from api.background import Work
from api.settings import Settings
from domain.actors import Actor
from domain.tickets.conversation import AddNote
from domain.tickets.opening import OpenTicket
from eventstore.database import Database
from eventstore.log import EventStore
from projections.daemon import project
from scripts.http_protocol import HttpProtocol
from scripts.testbed.child import words_of
from scripts.testbed.harness import HEADERS, accepted, free_port, serving
from scripts.testbed.load import Connection
from scripts.testbed.wire import database_at

TICKETS = 200
_PLAIN = frozenset({"nothing", "crud", "memory"})  # as uvicorn serves them, by h11
ANSWERS = "bench_answers"
"""The collection of what the service from memory answers, by path."""
ACTOR = Actor("bench", "agent")
OPEN = OpenTicket(subject="Bench", requester="bench", body="x" * 200)
NOTE = "It was the toner after all; the other tray works, and the part is ordered. " * 2


def crud_service(database: Database) -> FastAPI:
    """A plain service as most would write it: the ticket is a document, changed in place."""
    app = FastAPI()
    tickets = database.collection("crud_tickets")

    @app.post("/tickets", status_code=201)
    async def open_ticket(command: OpenTicket) -> dict[str, object]:
        now = datetime.now(UTC)
        ticket = {**command.model_dump(), "_id": str(uuid4()), "status": "new", "notes": []}
        await tickets.insert_one({**ticket, "opened_at": now, "updated_at": now, "has_note": False})
        return {"ticket_id": ticket["_id"]}

    @app.post("/tickets/{ticket_id}/add_note")
    async def add_note(ticket_id: str, note: AddNote) -> Response:
        now = datetime.now(UTC)
        entry = {"body": note.body, "at": now, "actor": "bench"}
        # The last ten only: a document that grows for ever would be measured instead of a change.
        changed = await tickets.update_one(
            {"_id": ticket_id},
            {"$push": {"notes": {"$each": [entry], "$slice": -10}}, "$set": {"updated_at": now}},
        )
        if changed.matched_count == 0:
            raise HTTPException(404)
        ticket = await tickets.find_one({"_id": ticket_id})
        if ticket is None or ticket["status"] == "closed":
            raise HTTPException(404)
        ticket |= {"has_note": True, "preview": note.body[:50]}
        await tickets.replace_one({"_id": ticket_id}, ticket)
        return _answer({"ticket_id": ticket_id, "updated_at": now})

    return app


def _answer(content: dict[str, object]) -> Response:
    # As Casebook does: no model of an answer is made, so that none is measured.
    return Response(orjson.dumps(content), media_type="application/json")


def service_without_database() -> FastAPI:
    """The bound: FastAPI reads and validates the same body, and answers."""
    app = FastAPI()

    @app.post("/tickets", status_code=201)
    async def open_ticket(_: OpenTicket) -> dict[str, object]:
        return {"ticket_id": str(uuid4())}

    @app.post("/tickets/{ticket_id}/add_note")
    async def add_note(ticket_id: str, note: AddNote) -> Response:
        events = [{"version": 1, "type": note.body[:9]}]
        return _answer({"ticket_id": ticket_id, "version": 1, "events": events})

    return app


def service_from_memory(database: Database) -> FastAPI:
    """The bound: FastAPI finds the route, and sends what it has."""
    answers: dict[str, bytes] = {}

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        async for kept in database.collection(ANSWERS).find():
            if isinstance(body := kept["body"], bytes):
                answers[str(kept["_id"])] = body
        yield

    app = FastAPI(lifespan=lifespan)

    @app.get("/tickets{rest:path}")
    async def answer(request: Request, rest: str) -> Response:
        query = f"?{request.url.query}" if request.url.query else ""
        return Response(answers[f"/tickets{rest}{query}"], media_type="application/json")

    return app


async def serve(kind: str, url: str, port: str) -> None:
    """Serve a kind of service until the process is told to end."""
    settings = Settings.from_environment()
    database = Database(url, settings.mongo_driver)
    match kind:
        case "nothing":
            app = service_without_database()
        case "crud":
            app = crud_service(database)
        case "memory":
            app = service_from_memory(database)
        case _:
            store = EventStore(database, sealing=kind != "unsealed")
            work: list[Work] = [partial(project, database, store)] if kind == "projecting" else []
            app = create_app(database, store, work, access=access_by(database, settings))
    protocol = H11Protocol if kind in _PLAIN else HttpProtocol
    config = uvicorn.Config(
        app, http=protocol, host="127.0.0.1", port=int(port), log_config=None, access_log=False
    )
    await uvicorn.Server(config).serve()


@asynccontextmanager
async def service(kind: str, url: str) -> AsyncIterator[int]:
    """Run one of the services in processes of its own; yield its port."""
    port = free_port()
    words = words_of(serve, kind, url, port)
    if kind == "two":
        words = ["scripts.serve", "--workers", "2"]
    # For the two workers: of the others, one projects if its kind says so.
    async with serving(*words, port=port, url=url, CASEBOOK_PROJECTING="no"):
        yield port


@asynccontextmanager
async def services(urls: Mapping[str, str]) -> AsyncIterator[dict[str, int]]:
    """Run some kinds of services, each on a database of its own at its URL's server; yield the port
    of each.
    """
    async with AsyncExitStack() as stack:
        running: dict[str, int] = {}
        for kind, url in urls.items():
            server = service(kind, database_at(url, f"bench_{kind}"))
            running[kind] = await stack.enter_async_context(server)
        yield running


async def open_tickets(port: int, count: int = TICKETS) -> list[str]:
    """Open some tickets, each of another requester's; return their ids."""
    opening = OPEN.model_dump(mode="json")
    async with Connection(port, HEADERS) as connection:
        answers = [
            accepted(await connection.post("/tickets", {**opening, "requester": f"customer {n}"}))
            for n in range(count)
        ]
    return [str(answer.json()["ticket_id"]) for answer in answers]
