"""How it is: whether the process answers, whether it can be relied on, and each partition."""

import asyncio
from collections.abc import Mapping
from datetime import datetime
from functools import partial
from http import HTTPStatus
from typing import Literal
from uuid import UUID

from fastapi import Response
from prometheus_client import CONTENT_TYPE_LATEST
from pydantic import Field

from api.http.answers import fields_of, json_response, with_headers
from api.http.problems import problems
from api.http.routing import Router
from api.model import ApiModel
from api.operations import metrics
from api.operations.stored_documents import readability_check
from domain.errors import TicketNotFound
from domain.values import JsonObject
from eventstore.cached_value import CachedValue
from eventstore.database import Database
from eventstore.documents import EssentialUnreadable
from eventstore.event_document import time_of
from eventstore.failures import StoreUnavailable
from eventstore.log import EventStore
from eventstore.mongo.errors import time_limit
from eventstore.transparency.checkpoints import CheckpointMemory, last_statement
from projections.generations import Generations
from projections.projector.health import Condition, Lag, Report, age_seconds, lags, look
from projections.projector.parked import Parked, ParkedTickets
from projections.projector.partitions import Member, Partition, Phase, State

_READY_SECONDS = 5.0
_READY_KEPT_SECONDS = 0.5
_MOST_PARKED = 100


class Repair(ApiModel):
    """A ticket whose view is to be folded again from its first event."""

    ticket_id: UUID


class Alive(ApiModel):
    """It answers."""

    status: Literal["ok"] = "ok"


class ViewsHealth(ApiModel):
    """How the views are, judged by how much of the log is folded."""

    condition: Condition
    age_seconds: float | None
    """Null while it is not known."""
    missing_events: int
    vanished_events: int
    """Shown, and in the log no more: see `casebook verify`."""
    overdue_events: int
    parked_tickets: int
    failures: list[str]


class Readiness(ApiModel):
    """Whether the process is ready. `views` is left out if the database does not answer.
    `held_up`: what in this process has waited too long for the database. `failing`: background
    tasks that failed within the last minute, and are tried again.

    `unreadable`: how many documents of which collections this version cannot read, if there are
    any. It needs no key, so it says no more; the rest is in `/projections`.
    """

    status: Literal["ready", "not ready"]
    database: Literal["ok", "does not answer"]
    log: Literal["ok", "replaced"] | None = None
    views: Condition | None = None
    clock: Literal["ok", "far off"] | None = None
    """Far off: by more than five seconds from the database's. Nothing is dated by it, and this
    process keeps no time.
    """
    held_up: list[str] = Field(default=[])
    failing: list[str] = Field(default=[])
    unreadable: dict[str, int] = Field(default={})


class ParkedAnswer(ApiModel):
    """A ticket whose next event could not be folded."""

    ticket_id: UUID
    version: int
    waiting_events: int
    error: str
    tried_at: datetime
    repair_asked: bool


class ProjectorAnswer(ApiModel):
    """A process that keeps the views current."""

    id: str
    alive: bool
    seen_at: datetime
    progressed_at: datetime | None
    partitions: int
    failure: str | None


class LastEvent(ApiModel):
    """The last event that was folded."""

    ticket_id: UUID
    version: int
    recorded_at: datetime
    age_seconds: float | None


class PartitionAnswer(ApiModel):
    """One part of the views."""

    partition: int
    condition: Condition
    owner: str | None
    epoch: int
    phase: Phase
    applied_events: int
    last_event: LastEvent | None
    as_of: datetime | None
    lag: Lag | None


class ReplayAnswer(ApiModel):
    """Views that are being built anew. `done` of `total` counts events of the phase."""

    phase: str
    done: int
    total: int
    began_at: datetime
    seen_at: datetime


class EndedReplay(ApiModel):
    """How the last replay ended. It has proved `checked_documents` read documents and
    `checked_numbers` numbers equal to the log before they were shown.
    """

    what: str | None
    """`rebuild`: all views anew; `as_of`: views as of a time; `rollback`: the former ones again.
    Null if it was killed.
    """
    began_at: datetime
    ended_at: datetime
    failure: str | None
    """Why what is shown stayed as it was; null if it went."""
    tickets: int
    events: int
    parked: int
    """Tickets that could not be folded."""
    checked_documents: int
    checked_numbers: int
    seconds: dict[str, float]
    """How long each phase took."""
    fenced_seconds: float
    """For how long no projector could write to what was shown."""


class CheckpointAnswer(ApiModel):
    """The last signed checkpoint of the log: `root` stands for all of its events."""

    number: int
    taken_at: datetime
    tickets: int
    events: int
    root: str


class ProjectionsAnswer(ViewsHealth):
    """How the views are, part by part."""

    log_events: int
    applied_events: int
    parked: list[ParkedAnswer]
    projectors: list[ProjectorAnswer]
    partitions: list[PartitionAnswer]
    replay: ReplayAnswer | None
    """Null while none is at work."""
    last_replay: EndedReplay | None
    """Null before the first has ended."""
    checkpoint: CheckpointAnswer | None
    """Null if none was taken."""
    missing_checkpoint: int | None
    """The last checkpoint that this process has seen, if it is gone by now."""


class RepairAsked(ApiModel):
    """A ticket that is going to be folded again."""

    ticket_id: UUID
    repair: Literal[True]


def router(database: Database, store: EventStore, checkpoints: CheckpointMemory) -> Router:
    """Make the routes over one database. `checkpoints`: the last of the log that was seen."""
    generations = Generations(database)
    is_readable = readability_check(database)
    # Any caller may ask, and it costs.
    looked = CachedValue(partial(generations.ask, partial(look, store=store)))
    routes = Router("health")

    @routes.get("/healthz", response_model=Alive)
    async def healthz() -> JsonObject:
        """Say that the process answers."""
        return Alive().model_dump()

    @routes.get(
        "/readyz",
        response_model=Readiness,
        responses={503: {"model": Readiness, "description": "Not ready; the same document."}},
    )
    async def readyz() -> Response:
        """Say whether this process takes commands and the views are kept current; 503 if not.

        `views`: `current` if they show all that was written before the last 15 seconds. `slow` if
        they do not, but progress: starting projectors again would not help. `stuck` if they do not
        and nothing progresses, or if events are missing that they should show. What counts is how
        far the log has been folded, not which processes run.

        `held_up` names what in this process has waited too long for an answer of the database,
        though the database answers others. `log` is `replaced` if it was restored while this
        process ran: start the process again. `unreadable` counts documents that another version has
        stored and this one cannot read. They make the process not ready only if they are the
        newest set-up of the desk, or say which views are shown.
        """
        held_up, failing = database.watchdog.held_up(), database.supervisor.failing()
        late: JsonObject = {"held_up": held_up, "failing": failing}
        try:
            async with time_limit(_READY_SECONDS):
                report: Report | None = await looked.get(_READY_KEPT_SECONDS)
                readable = await is_readable()
        except StoreUnavailable:
            return _readiness({"database": "does not answer", **late}, ready=False)
        except EssentialUnreadable:
            report, readable = None, False
        condition = None if report is None else report.condition
        replaced = database.identity.is_replaced
        ready = readable and not replaced and not held_up and condition != "stuck"
        content: JsonObject = {
            "database": "ok",
            "log": "replaced" if replaced else "ok",
            "views": condition,
            "clock": "far off" if database.clock.is_far_off else "ok",
            **late,
            "unreadable": dict(sorted(database.unreadable.counts().items())),
        }
        return _readiness(content, ready=ready)

    async def looked_at(shown: Database) -> tuple[Report, Mapping[int, Lag]]:
        report = await look(shown, store)
        return report, await lags(shown, store, report)

    @routes.get("/projections", response_model=ProjectionsAnswer)
    async def show_projections() -> JsonObject:
        """Show how far the views are: by partition, with its projector, and the parked tickets.

        `lag` counts events that are in the log and not in the views, without those of parked
        tickets; it is null while it is not known how far a partition is.
        """
        async with time_limit():
            report, behind = await generations.ask(looked_at)
            build, ended, statement = await asyncio.gather(
                generations.build(), generations.ended(), last_statement(database)
            )
        state = report.state
        return {
            **_views(report),
            "missing_events": max(report.missing_events, sum(b.events for b in behind.values())),
            "log_events": report.log_events,
            "applied_events": report.folded_events,
            "parked": [
                _parked(ticket, report.waiting[ticket.ticket_id])
                for ticket in report.parked[:_MOST_PARKED]
            ],
            "projectors": [_projector(state, member) for member in state.members.values()],
            "partitions": [
                _partition(state, partition, condition, behind.get(partition.number))
                for partition, condition in zip(state.partitions, report.conditions, strict=True)
            ],
            "replay": build and build._asdict(),
            "last_replay": ended and ended._asdict(),
            "checkpoint": statement
            and fields_of(CheckpointAnswer, statement, taken_at=time_of(statement.taken_at)),
            "missing_checkpoint": checkpoints.missing and checkpoints.missing.number,
        }

    @routes.post(
        "/projections/repairs",
        status_code=202,
        response_model=RepairAsked,
        responses={202: with_headers("Location"), **problems(404)},
    )
    async def repair(asked: Repair) -> Response:
        """Fold a ticket again from its first event, whether it is parked or not.

        Its projector does so within moments; a ticket that still cannot be folded stays parked.
        """
        async with time_limit():
            if not await store.stored(asked.ticket_id, limit=1):
                raise TicketNotFound
            await ParkedTickets(database).ask(asked.ticket_id)
        content = {"ticket_id": asked.ticket_id, "repair": True}
        return json_response(content, {"Location": "/projections"}, HTTPStatus.ACCEPTED)

    @routes.get(
        "/metrics",
        response_class=Response,
        responses={
            200: {
                "description": "Prometheus' text format.",
                "content": {"text/plain": {"schema": {"type": "string"}}},
            }
        },
    )
    async def show_metrics() -> Response:
        """Show this process's metrics, and how far the views are behind the log (NaN while the
        database does not answer).
        """
        return Response(await metrics.text(looked), media_type=CONTENT_TYPE_LATEST)

    return routes


def _readiness(content: JsonObject, *, ready: bool) -> Response:
    """Answer with what is known; what lists nothing is left out."""
    known = {name: value for name, value in content.items() if value not in ([], {})}
    status = HTTPStatus.OK if ready else HTTPStatus.SERVICE_UNAVAILABLE
    return json_response({"status": "ready" if ready else "not ready", **known}, None, status)


def _views(report: Report) -> JsonObject:
    failures = {m.failure for m in report.state.members.values() if m.failure is not None}
    return fields_of(
        ViewsHealth,
        report,
        age_seconds=age_seconds(report.state),
        overdue_events=len(report.overdue),
        parked_tickets=len(report.parked),
        failures=sorted(failures),
    )


def _partition(
    state: State, partition: Partition, condition: Condition, lag: Lag | None
) -> JsonObject:
    last = partition.last
    if last is not None:
        last = {**last, "age_seconds": _age(state, last["recorded_at"])}
    return fields_of(
        PartitionAnswer,
        partition,
        partition=partition.number,
        condition=condition,
        applied_events=partition.applied,
        last_event=last,
        as_of=state.as_of(partition),
        lag=lag,
    )


def _projector(state: State, member: Member) -> JsonObject:
    partitions, alive = len(state.of(member.id)), state.is_alive(member.id)
    return fields_of(ProjectorAnswer, member, alive=alive, partitions=partitions)


def _parked(ticket: Parked, waiting_events: int) -> JsonObject:
    return fields_of(
        ParkedAnswer, ticket, waiting_events=waiting_events, repair_asked=ticket.repair
    )


def _age(state: State, then: object) -> float | None:
    return max(0.0, (state.now - then).total_seconds()) if isinstance(then, datetime) else None
