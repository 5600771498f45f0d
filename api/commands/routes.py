"""The command routes, one per command class: `POST /tickets` and `POST /tickets/{id}/<verb>`; and
which of them a ticket takes now.

Nothing is written here for a single command: the path is the class's verb, the body its fields, the
description its docstring.
"""

import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from inspect import Parameter, getdoc, signature
from typing import Annotated
from uuid import UUID

from fastapi import Header, Response
from pydantic import BaseModel, Field

from api.commands.handler import (
    DeskSource,
    Handler,
    Outcome,
    Redaction,
    Submission,
    new_ticket_id,
)
from api.http.answers import json_response, with_headers
from api.http.caller import CurrentPrincipal
from api.http.correlation import CurrentCorrelation
from api.http.preferences import WAIT_SECONDS, prefer_header, return_preference, wait_seconds
from api.http.problems import problems
from api.http.routing import Endpoint, Router
from api.model import ApiModel
from api.queries.representations import UNREADABLE, TicketDetail, Tickets
from api.queries.visibility import Visibility, VisibilityPolicy
from api.queries.watermark import ReadModels
from domain.actors import Actor
from domain.errors import CasebookError, Unacceptable
from domain.tickets import COMMANDS
from domain.tickets.command import Command, Context
from domain.tickets.opening import OpenTicket
from domain.values import JsonObject, one_spelling

IdempotencyKey = Annotated[
    str | None,
    Header(
        alias="Idempotency-Key",
        min_length=1,
        max_length=200,
        description="Send the same key for the same ticket again, and what the command did is "
        "not done twice: the answer is the first one. A command that was refused or changed "
        "nothing left nothing behind, and is decided anew.",
    ),
]
IfMatch = Annotated[
    str | None,
    Header(
        alias="If-Match",
        description='The version the command was decided on, as its ETag: `"3"`. Else 412.',
        json_schema_extra={"pattern": '^("[0-9]{1,18}"|[*])$'},
    ),
]
Prefer = Annotated[
    str | None,
    prefer_header(
        "RFC 7240. `wait=2`: answer once lists and dashboard show the change, or after "
        f"2 seconds without; at most {WAIT_SECONDS}. `return=representation`: the answer holds the "
        "ticket as well. `return=minimal`: 204 without a body, for all commands but `open`. "
        "`Preference-Applied` says what was done."
    ),
]


RedactionTold = Annotated[
    Redaction | None,
    Field(
        description="Of `redact` alone. `destroyed`: the words cannot be read again by anybody who "
        "has the log and the keys. `hidden`: they are shown to nobody, but stay sealed in the log "
        "until the person is erased, since a former version wrote them, or the person has had some "
        "65 others destroyed on other tickets. `pending`: the keys did not answer; what can be "
        "destroyed is, in the background.",
    ),
]


class AcceptedEvent(ApiModel):
    """An event that a command led to."""

    version: int
    type: str


class Accepted(ApiModel):
    """The answer to a command: the ticket's version now, and the events that it led to."""

    ticket_id: UUID
    version: int
    events: list[AcceptedEvent]
    """Empty if nothing had to change, or nothing that the caller sees."""
    follow_up: UUID | None
    """The ticket in which a requester's reply to this closed one stands: where its conversation
    goes on, or a new one.
    """
    redaction: RedactionTold = None
    ticket: TicketDetail | None = None
    """The ticket as it is, with `Prefer: return=representation`."""


class Possible(ApiModel):
    """What can be done with a ticket as it is."""

    ticket_id: UUID
    commands: dict[str, list[str]] = Field(
        examples=[{"assign": [], "resolve": ["assignee", "fields.cause"]}]
    )
    """By verb, what must be filled in on the ticket first: `assignee`, or `fields.<key>`."""


def router(
    handler: Handler,
    views: ReadModels,
    current_tickets: Tickets,
    policy: VisibilityPolicy,
    desks: DeskSource,
    now: Callable[[], datetime],
) -> Router:
    """Make the routes of all commands. `now`: the clock that says what is overdue."""
    routes = Router("commands")
    headers = with_headers("ETag", "Preference-Applied")

    @routes.post(
        "/tickets",
        name=OpenTicket.operation,
        summary="Open",
        description=getdoc(OpenTicket),
        status_code=201,
        response_model=Accepted,
        responses={201: with_headers("ETag", "Preference-Applied", "Location"), **problems(409)},
    )
    async def open_ticket(
        command: OpenTicket,
        who: CurrentPrincipal,
        correlation_id: CurrentCorrelation,
        idempotency_key: IdempotencyKey = None,
        prefer: Prefer = None,
    ) -> Response:
        visible = await policy.of(who)
        visible.check_opening(command)
        submission = Submission(
            command=command, actor=who.actor, key=idempotency_key, correlation_id=correlation_id
        )
        outcome = await handler.handle(new_ticket_id(who.actor, idempotency_key), submission)
        return await answer(outcome, prefer, visible, opened=True)

    async def change(
        ticket_id: UUID,
        command: Command,
        who: CurrentPrincipal,
        correlation_id: CurrentCorrelation,
        idempotency_key: IdempotencyKey = None,
        if_match: IfMatch = None,
        prefer: Prefer = None,
    ) -> Response:
        visible = await policy.of(who)
        submission = Submission(
            command=command,
            actor=who.actor,
            key=idempotency_key,
            expected_version=expected_version(if_match),
            sees_public=visible.is_of_requester,
            correlation_id=correlation_id,
            require=visible.require,
        )
        return await answer(await handler.handle(ticket_id, submission), prefer, visible)

    async def answer(
        outcome: Outcome, prefer: str | None, visible: Visibility, *, opened: bool = False
    ) -> Response:
        """Answer as is preferred. The command has been done: nothing fails here."""
        applied = await waited(views, [outcome], prefer)
        content = visible.outcome(outcome)
        version = content["version"]
        preferred = return_preference(prefer)
        is_minimal = preferred == "minimal" and not opened
        if is_minimal:
            applied.append("return=minimal")
        elif preferred == "representation":
            with suppress(CasebookError, *UNREADABLE):
                current = await current_tickets.document(outcome.ticket_id)
                if visible.sees(current):  # this very command may have hidden it
                    content["ticket"] = shown = await policy.detail(visible, current)
                    version = shown["version"]
                    applied.append("return=representation")
        headers = {"ETag": f'"{version}"'}
        if applied:
            headers["Preference-Applied"] = ", ".join(applied)
        if is_minimal:
            return Response(None, 204, headers)
        if opened:
            headers["Location"] = f"/tickets/{outcome.ticket_id}"
        return json_response(content, headers, 201 if opened else 200)

    @routes.get("/tickets/{ticket_id}/commands", response_model=Possible, responses=problems(404))
    async def show_commands(ticket_id: UUID, who: CurrentPrincipal) -> JsonObject:
        """Show which commands the ticket, as it is, can take from the caller: all others are
        refused, or change nothing. One that is possible may be refused for what it says, and on a
        ticket that holds all that a ticket may.
        """
        await policy.of_ticket(who, ticket_id)
        ticket = (await current_tickets.current(ticket_id)).ticket
        actor = Actor(one_spelling(who.id), who.actor.role)
        desk = await desks.current()
        context = Context(now=now(), actor=actor, ticket_id=ticket_id, desk=desk)
        possible = {
            verb: command.needs(ticket, context)
            for verb, command in COMMANDS.items()
            if who.role in command.allowed and command.is_possible(ticket, context)
        }
        return {"ticket_id": ticket_id, "commands": possible}

    for verb, command in COMMANDS.items():
        if command is not OpenTicket:
            routes.add_api_route(
                f"/tickets/{{ticket_id}}/{verb}",
                BodyEndpoint(command, change),
                methods=["POST"],
                name=command.operation,
                summary=verb.replace("_", " ").capitalize(),
                description=getdoc(command),
                response_model=Accepted,
                openapi_extra={"x-moves": {at: sorted(to) for at, to in command.moves.items()}},
                responses={
                    200: headers,
                    204: {"description": "Done, with `Prefer: return=minimal`", **headers},
                    **problems(404, 409, 412),
                },
            )
    return routes


class BodyEndpoint:
    """An endpoint that takes one model as its body, `command`: none is needed if no field is."""

    def __init__(self, body_model: type[BaseModel], endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        own = signature(endpoint)
        body = own.parameters["command"].replace(annotation=body_model)
        if not any(field.is_required() for field in body_model.model_fields.values()):
            body = body.replace(default=body_model.model_validate({}))
        others = [p for p in own.parameters.values() if p.name != "command"]
        parameters = [p.replace(kind=Parameter.KEYWORD_ONLY) for p in (body, *others)]
        self.__signature__ = own.replace(parameters=parameters)

    def __call__(self, **arguments: object) -> Awaitable[Response | JsonObject | None]:
        """Answer a request."""
        return self._endpoint(**arguments)


async def waited(views: ReadModels, outcomes: Sequence[Outcome], prefer: str | None) -> list[str]:
    """Wait for the views if that is preferred; return the preference if they show it all.

    What goes wrong with the views is not the commands' affair, which are done.
    """
    seconds = wait_seconds(prefer)
    if seconds is None:
        return []
    versions = {outcome.ticket_id: outcome.version for outcome in outcomes}
    versions |= {o.follow_up: o.follow_up_version for o in outcomes if o.follow_up is not None}
    with suppress(CasebookError):
        if await views.show(versions, seconds):
            return [f"wait={seconds}"]
    return []


def expected_version(if_match: str | None) -> int | None:
    """Read a version from `If-Match`; None if any will do. Raises Unacceptable."""
    if if_match is None or if_match == "*":
        return None
    version = re.fullmatch(r'(?:W/)?("?)([0-9]{1,18})\1', if_match)
    if version is None:
        raise Unacceptable("bad_if_match", 'If-Match must be a version in quotes, like "3"')
    return int(version[2])
