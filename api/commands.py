"""The command routes, one per command class: `POST /tickets` and `POST /tickets/{id}/<verb>`.

Nothing is written here for a single command: the path is the class's verb, the body its fields, the
description its docstring.
"""

import re
from collections.abc import Awaitable, Callable
from http import HTTPStatus
from inspect import Parameter, getdoc, signature
from typing import Annotated
from uuid import UUID

import orjson
from fastapi import APIRouter, Header, Response
from pydantic import BaseModel, Field

from api.access import CurrentActor
from api.handle import Handler, Outcome, Submission, new_ticket_id
from api.problems import problem_responses
from api.visible import Prefer, Views, wait_seconds
from domain.commands import COMMANDS, Command, OpenTicket
from domain.errors import Unacceptable

Endpoint = Callable[..., Awaitable[Response]]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=200,
        description="Send the same key for the same ticket again, and what the command did is "
        "not done twice: the answer is the first one. A command that was refused or changed "
        "nothing left nothing behind, and is decided anew.",
    ),
]
IfMatch = Annotated[
    str | None,
    Header(description='The version the command was decided on, as its ETag: `"3"`. Else 412.'),
]
CorrelationId = Annotated[
    str | None, Header(max_length=200, description="Kept with the events; ties requests together.")
]


class AcceptedEvent(BaseModel):
    version: int
    type: str


class Accepted(BaseModel):
    """The answer to a command: the ticket's version now, and the events that it led to."""

    ticket_id: UUID
    version: int
    events: list[AcceptedEvent] = Field(description="Empty if nothing had to change.")
    follow_up: UUID | None = Field(
        description="The new ticket that a requester's reply to this closed one has opened."
    )


def router(handler: Handler, views: Views) -> APIRouter:
    """Make the routes of all commands."""
    routes = APIRouter(tags=["commands"])
    problems = problem_responses(400, 409, 412, 422, 503)
    for verb, command in COMMANDS.items():
        opens = command is OpenTicket
        routes.add_api_route(
            "/tickets" if opens else f"/tickets/{{ticket_id}}/{verb}",
            _taking(command, _open(handler, views) if opens else _change(handler, views)),
            methods=["POST"],
            name=verb,
            summary=verb.replace("_", " ").capitalize(),
            description=getdoc(command),
            status_code=HTTPStatus.CREATED if opens else HTTPStatus.OK,
            response_model=Accepted,
            responses=problems if opens else {**problems, **problem_responses(404)},
        )
    return routes


def _open(handler: Handler, views: Views) -> Endpoint:
    async def endpoint(
        command: Command,
        actor: CurrentActor,
        idempotency_key: IdempotencyKey = None,
        correlation_id: CorrelationId = None,
        prefer: Prefer = None,
    ) -> Response:
        ticket_id = new_ticket_id(actor, idempotency_key)
        submission = Submission(
            command=command, actor=actor, key=idempotency_key, correlation_id=correlation_id
        )
        outcome = await handler.handle(ticket_id, submission)
        headers = await _waited(views, outcome, prefer)
        headers["Location"] = f"/tickets/{ticket_id}"
        return answer(outcome, HTTPStatus.CREATED, headers)

    return endpoint


def _change(handler: Handler, views: Views) -> Endpoint:
    async def endpoint(
        ticket_id: UUID,
        command: Command,
        actor: CurrentActor,
        idempotency_key: IdempotencyKey = None,
        if_match: IfMatch = None,
        correlation_id: CorrelationId = None,
        prefer: Prefer = None,
    ) -> Response:
        submission = Submission(
            command=command,
            actor=actor,
            key=idempotency_key,
            expected_version=expected_version(if_match),
            correlation_id=correlation_id,
        )
        outcome = await handler.handle(ticket_id, submission)
        return answer(outcome, HTTPStatus.OK, await _waited(views, outcome, prefer))

    return endpoint


async def _waited(views: Views, outcome: Outcome, prefer: str | None) -> dict[str, str]:
    """Wait for the views if that is preferred; give the header that says that it was done."""
    seconds = wait_seconds(prefer)
    if seconds is None:
        return {}
    versions = {outcome.ticket_id: outcome.version}
    if outcome.follow_up is not None:
        versions[outcome.follow_up] = 1
    shown = await views.show(versions, seconds)
    return {"Preference-Applied": f"wait={seconds}"} if shown else {}


def _taking(command: type[Command], endpoint: Endpoint) -> Endpoint:
    """Make `endpoint` take this very command as its body; none is needed if no field is."""
    own = signature(endpoint)
    body = own.parameters["command"].replace(annotation=command)
    if not any(field.is_required() for field in command.model_fields.values()):
        body = body.replace(default=command.model_validate({}))
    others = [p for p in own.parameters.values() if p.name != "command"]
    parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (body, *others)]
    endpoint.__signature__ = own.replace(parameters=parameters)  # type: ignore[attr-defined]
    return endpoint


def expected_version(if_match: str | None) -> int | None:
    """Read a version from `If-Match`; None if any will do. Raises Unacceptable."""
    if if_match is None or if_match == "*":
        return None
    version = re.fullmatch(r'(?:W/)?"?([0-9]{1,18})"?', if_match)
    if version is None:
        raise Unacceptable("bad_if_match", 'If-Match must be a version in quotes, like "3"')
    return int(version[1])


def answer(outcome: Outcome, status: HTTPStatus, headers: dict[str, str]) -> Response:
    content = {
        "ticket_id": outcome.ticket_id,
        "version": outcome.version,
        "events": [{"version": e.version, "type": e.type} for e in outcome.events],
        "follow_up": outcome.follow_up,
    }
    headers["ETag"] = f'"{outcome.version}"'
    return Response(orjson.dumps(content), status, headers, "application/json")
