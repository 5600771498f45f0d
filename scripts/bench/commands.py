"""The write path beside a CRUD service and no database at all."""

import asyncio
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Sequence
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from functools import partial
from typing import NamedTuple
from uuid import uuid4

import orjson
import uvicorn
from fastapi import FastAPI, HTTPException, Response
from pydantic import BaseModel, ConfigDict, Field
from uvicorn.protocols.http.h11_impl import H11Protocol

from api.app import Work, access_by, create_app
from api.settings import Settings
from domain.commands import OpenTicket
from domain.events import Actor
from eventstore.driver import Database, connect
from eventstore.store import EventStore
from projections.keeping import project
from scripts.console import progress
from scripts.load import Connection, request
from scripts.soak.promises import HEADERS, free_port, let_in, process, ready

SERVICES = {
    "crud": "CRUD: update_one, find_one, replace_one",
    "alone": "Casebook, each event by itself",
    "group": "Casebook, group commit",
    "two": "Casebook as it is served, two workers",
    "projecting": "Casebook, group commit, projector in the process",
    "nothing": "validates the body, no database",
}
CONNECTIONS = (1, 32, 128)
TICKETS = 200
ACTOR = Actor("bench", "agent")
OPEN = OpenTicket(subject="Bench", requester="bench", body="x" * 200)
NOTE = "It was the toner after all; the other tray works, and the part is ordered. " * 2


# --- what is measured: services ------------------------------------------------------------------


class Note(BaseModel):
    model_config = ConfigDict(extra="forbid")

    body: str = Field(min_length=1, max_length=50_000)


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
    async def add_note(ticket_id: str, note: Note) -> Response:
        now = datetime.now(UTC)
        entry = {"body": note.body, "at": now, "actor": "bench"}
        # The last ten only: a document that grows for ever would be measured instead of a change.
        changed = await tickets.update_one(
            {"_id": ticket_id, "status": {"$ne": "closed"}},
            {"$push": {"notes": {"$each": [entry], "$slice": -10}}, "$set": {"updated_at": now}},
        )
        if changed.matched_count == 0:
            raise HTTPException(404)
        ticket = await tickets.find_one({"_id": ticket_id})
        if ticket is None:
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
    async def add_note(ticket_id: str, note: Note) -> Response:
        events = [{"version": 1, "type": note.body[:9]}]
        return _answer({"ticket_id": ticket_id, "version": 1, "events": events})

    return app


async def serve(kind: str, url: str, port: int) -> int:
    settings = Settings.from_environment()
    database = connect(url, settings.mongo_driver)
    if kind == "nothing":
        app = service_without_database()
    elif kind == "crud":
        app = crud_service(database)
    else:
        store = EventStore(database, group_commit=kind != "alone", sealing=kind != "unsealed")
        beside: list[Work] = []
        if kind == "projecting":
            beside.append(partial(project, database, store))
        app = create_app(database, store, beside, access=access_by(database, settings))
    config = uvicorn.Config(
        app, http=H11Protocol, host="127.0.0.1", port=port, log_config=None, access_log=False
    )
    await uvicorn.Server(config).serve()
    return 0


def _how_to_serve(kind: str, url: str, port: int) -> tuple[tuple[str, ...], dict[str, str]]:
    """Give the command line of a service, and what it finds in its environment."""
    if kind != "two":
        return ("scripts.bench", "_serve", kind, url, str(port)), {}
    environment = {
        "CASEBOOK_MONGODB_URL": url,
        "CASEBOOK_PORT": str(port),
        "CASEBOOK_PROJECTING": "no",
        "CASEBOOK_LOG_REQUESTS": "no",
    }
    return ("scripts.serve", "--workers", "2"), environment


# --- how it is measured --------------------------------------------------------------------------


class Measured(NamedTuple):
    """One stretch of load: requests per second, and latencies in milliseconds."""

    rate: float
    p50: float
    p99: float


async def load(port: int, tickets: Sequence[str], connections: int, seconds: float) -> Measured:
    """Keep some connections busy for a while."""
    body = orjson.dumps({"body": NOTE})
    latencies: list[float] = []
    end = time.perf_counter() + seconds

    async def one() -> None:
        async with Connection(port) as connection:
            while (began := time.perf_counter()) < end:
                path = f"/tickets/{random.choice(tickets)}/add_note"  # noqa: S311
                key = {"Idempotency-Key": uuid4().hex, **HEADERS}
                answer = await connection.send(request("POST", path, body, key))
                if answer.status != 200:
                    raise RuntimeError(f"{answer.status}: {answer.body!r}")
                latencies.append(time.perf_counter() - began)

    began = time.perf_counter()
    await asyncio.gather(*(one() for _ in range(connections)))
    taken = time.perf_counter() - began
    latencies.sort()
    return Measured(
        rate=len(latencies) / taken,
        p50=1000 * latencies[len(latencies) // 2],
        p99=1000 * latencies[int(len(latencies) * 0.99)],
    )


async def commands(url: str, rounds: int, seconds: float) -> None:
    """Measure the write path of all services in turn, and print a table."""
    measured: dict[tuple[str, int], list[Measured]] = defaultdict(list)
    async with AsyncExitStack() as stack:
        ports: dict[str, int] = {}
        tickets: dict[str, list[str]] = {}
        for kind in SERVICES:
            ports[kind] = free_port()
            base, _, options = url.partition("?")
            own = f"{base.rstrip('/')}/bench_{kind}?{options}"
            words, environment = _how_to_serve(kind, own, ports[kind])
            await stack.enter_async_context(process(*words, **environment))
            await ready(ports[kind])
            await let_in(own)
            tickets[kind] = await open_tickets(ports[kind])
        bar = stack.enter_context(progress())
        task = bar.add_task("", total=rounds * len(CONNECTIONS) * len(SERVICES), rate="stretches")
        for round_ in range(rounds):
            for connections in CONNECTIONS:
                for kind in random.sample(list(SERVICES), len(SERVICES)):
                    bar.update(task, description=f"{connections} connections, {kind}")
                    found = await load(ports[kind], tickets[kind], connections, seconds)
                    if kind == "projecting":
                        await asyncio.sleep(seconds)  # let it catch up before others are measured
                    if round_ > 0:  # the first is for warming up
                        measured[kind, connections].append(found)
                    bar.advance(task)
    print("\n| connections | service | requests/s | p50 ms | p99 ms | of CRUD | of no database |")
    print("| ---: | --- | ---: | ---: | ---: | ---: | ---: |")
    for connections in CONNECTIONS:
        crud = [m.rate for m in measured["crud", connections]]
        nothing = [m.rate for m in measured["nothing", connections]]
        for kind, name in SERVICES.items():
            stretches = measured[kind, connections]
            rates = [m.rate for m in stretches]
            print(
                f"| {connections} | {name} | {statistics.median(rates):.0f} "
                f"| {statistics.median(m.p50 for m in stretches):.1f} "
                f"| {statistics.median(m.p99 for m in stretches):.1f} "
                f"| {_ratio(rates, crud):.2f}x | {_ratio(rates, nothing):.2f}x |"
            )


def _ratio(ours: Sequence[float], theirs: Sequence[float]) -> float:
    """Give the median of the ratios, round by round."""
    return statistics.median(a / b for a, b in zip(ours, theirs, strict=True))


async def open_tickets(port: int) -> list[str]:
    """Open some tickets, each of another requester's; give their ids."""
    async with Connection(port, HEADERS) as connection:
        answers = [
            await connection.post(
                "/tickets", {**OPEN.model_dump(mode="json"), "requester": f"customer {number}"}
            )
            for number in range(TICKETS)
        ]
    return [str(answer.json()["ticket_id"]) for answer in answers]
