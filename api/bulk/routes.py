"""One command on many tickets: `POST /bulk/<verb>`, with an outcome for each.

Each ticket is a command of its own: those that are refused keep no other from being done. All have
the request's idempotency key, for a key belongs to a ticket: sent again, what was done is not done
twice, and what was not is tried.
"""

import asyncio
from functools import cache
from http import HTTPStatus
from inspect import getdoc
from typing import Annotated
from uuid import UUID

from fastapi import Request, Response
from pydantic import AfterValidator, BaseModel, Field, create_model

from api.access.authentication import Access
from api.access.principals import Unseen
from api.access.quotas import Quotas
from api.commands.handler import COMMANDS_AT_ONCE, Handler, Outcome, Submission
from api.commands.routes import AcceptedEvent, BodyEndpoint, IdempotencyKey, RedactionTold, waited
from api.http.answers import json_response, with_headers
from api.http.caller import CurrentPrincipal, asking_of
from api.http.correlation import CurrentCorrelation
from api.http.preferences import WAIT_SECONDS, prefer_header
from api.http.problems import Problem, problem_of
from api.http.routing import Router
from api.model import ApiModel
from api.queries.visibility import Visibility, VisibilityPolicy
from api.queries.watermark import ReadModels
from domain.tickets import COMMANDS
from domain.tickets.command import Command
from domain.tickets.opening import OpenTicket
from domain.values import at_most
from eventstore.failures import StoreBusy

MOST_TICKETS = 100
_PRINCIPALS_COMMANDS = COMMANDS_AT_ONCE // 10


def _each_once(tickets: tuple[UUID, ...]) -> tuple[UUID, ...]:
    if len(set(tickets)) < len(tickets):
        raise ValueError("each ticket can be named once")
    return tickets


Tickets = Annotated[
    tuple[UUID, ...],
    Field(min_length=1),
    *at_most(MOST_TICKETS),
    AfterValidator(_each_once),
]


class _Body(BaseModel, extra="forbid", frozen=True):
    tickets: Tickets
    command: Command


class Done(ApiModel):
    """What came of one ticket's command: as its own answer would tell it, or the problem."""

    ticket_id: UUID
    status: int
    """The status that the command would have been answered with."""
    version: int | None = None
    """Null with a problem."""
    events: list[AcceptedEvent] | None = None
    follow_up: UUID | None = None
    redaction: RedactionTold = None
    problem: Problem | None = None


BulkPrefer = Annotated[
    str | None,
    prefer_header(
        "RFC 7240. `wait=2`: answer once lists and dashboard show it all, or after "
        f"2 seconds without; at most {WAIT_SECONDS}. `Preference-Applied` says if they do."
    ),
]


class BulkAnswer(ApiModel):
    """What came of it, in the order in which the tickets were named."""

    outcomes: list[Done]
    done: int
    """How many were done, or had been, or changed nothing."""
    refused: int
    """How many were refused, and changed nothing."""
    failed: int
    """How many were not brought to an end (a status of 5xx): send them again, with the same key."""


def router(handler: Handler, views: ReadModels, policy: VisibilityPolicy) -> Router:
    """Make a route for each command but `open`."""
    routes = Router("commands on many tickets", prefix="/bulk")
    what = "commands on many tickets that are under way"
    under_way = Quotas(what, COMMANDS_AT_ONCE, _PRINCIPALS_COMMANDS, StoreBusy)

    async def change_many(
        request: Request,
        command: _Body,
        who: CurrentPrincipal,
        correlation_id: CurrentCorrelation,
        idempotency_key: IdempotencyKey = None,
        prefer: BulkPrefer = None,
    ) -> Response:
        visible = await policy.of(who)
        submission = Submission(
            command=command.command,
            actor=who.actor,
            key=idempotency_key,
            correlation_id=correlation_id,
            require=visible.require,
        )

        async def one(ticket_id: UUID) -> Outcome | Exception:
            try:
                return await handler.handle(ticket_id, submission)
            except Exception as error:  # noqa: BLE001 what came of the other tickets is told
                return error

        with under_way.hold(who.share, len(command.tickets)):
            found = await asyncio.gather(*map(one, command.tickets))
        if any(isinstance(outcome, Unseen) for outcome in found):
            access: Access = request.state.access
            access.note("unseen", asking_of(request.scope), who)
        outcomes = [_to_answer(t, o, visible) for t, o in zip(command.tickets, found, strict=True)]
        done = [outcome for outcome in found if isinstance(outcome, Outcome)]
        failed = sum(each.status >= HTTPStatus.INTERNAL_SERVER_ERROR for each in outcomes)
        applied = await waited(views, done, prefer)
        answer = BulkAnswer(
            outcomes=outcomes,
            done=len(done),
            refused=len(outcomes) - len(done) - failed,
            failed=failed,
        )
        headers = {"Preference-Applied": applied[0]} if applied else {}
        return json_response(answer.model_dump(), headers)

    for verb, command in COMMANDS.items():
        if command is not OpenTicket:
            routes.add_api_route(
                f"/{verb}",
                BodyEndpoint(_body(command), change_many),
                methods=["POST"],
                name=f"bulk_{command.operation}",
                summary=f"{verb.replace('_', ' ').capitalize()}, many at once",
                description=f"On up to {MOST_TICKETS} tickets: {getdoc(command)}",
                response_model=BulkAnswer,
                responses={200: with_headers("Preference-Applied")},
            )
    return routes


@cache
def _body(command: type[Command]) -> type[BaseModel]:
    needed = any(field.is_required() for field in command.model_fields.values())
    content = (command, ... if needed else command.model_validate({}))
    return create_model(
        f"Bulk{command.__name__}",
        __base__=_Body,
        __doc__=f"Tickets, and what is to be done with each: {command.__name__}.",
        command=content,
    )


def _to_answer(ticket_id: UUID, outcome: Outcome | Exception, visible: Visibility) -> Done:
    if isinstance(outcome, Outcome):
        return Done.model_validate({"status": HTTPStatus.OK, **visible.outcome(outcome)})
    problem = problem_of(outcome)
    return Done(ticket_id=ticket_id, status=problem.status, problem=problem)
