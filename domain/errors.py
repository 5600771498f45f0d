"""What can go wrong in the domain.

CasebookError
├── Refusal                 a well-formed command that is not accepted; nothing has changed
│   ├── NotFound            what is named does not exist
│   │   └── TicketNotFound
│   ├── Forbidden           the caller may not do this
│   ├── Unacceptable        the command is at fault: what it says, names, or who says it
│   └── StateConflict       the ticket's present state forbids it; in another state it might pass
│       └── PersonGone      whose words they would be has been erased
└── HistoryError            stored events that cannot be: unknown, unreadable or out of order

Every error carries a stable `code` for programs and a `detail` for people, and its class says of
what `kind` it is. A refusal's detail says why, and what to do instead where there is something.
Codes are part of the API and are never reused for another meaning.
"""

from collections.abc import Mapping, Sequence
from typing import ClassVar, Literal
from uuid import UUID

from pydantic import ValidationError

_MOST_FAULTS = 5


def faults_of(error: ValidationError) -> str:
    """Say what does not fit, and where; not the values, which are nobody's but the ticket's."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg']}" for fault in faults
    ]
    return "; ".join(told[:_MOST_FAULTS])


Kind = Literal[
    "unauthenticated",
    "forbidden",
    "not_found",
    "conflict",
    "precondition_failed",
    "unacceptable",
    "too_many",
    "unavailable",
    "fault",
]
"""What is wrong, for callers that need not know every class. `unavailable`: the same may work in a
moment; `fault`: Casebook or its log is at fault, and the caller can do nothing about it.
"""


class CasebookError(Exception):
    """Root of all errors that Casebook raises on purpose."""

    kind: ClassVar[Kind] = "fault"
    pointer: ClassVar[str | None] = None
    """Which parameter of a request is at fault, where a class knows."""
    retry_after_seconds: int | None = None
    """When to try again, where an error knows."""
    faults: Sequence[tuple[str, str]] = ()
    """Places in a request, as JSON pointers, and what is wrong there, where an error knows them."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Refusal(CasebookError):
    """A command that was understood and not accepted. State is unchanged."""


class NotFound(Refusal):
    """For example: a version of something that it has not reached."""

    kind = "not_found"


class TicketNotFound(NotFound):
    """For example: a reply to a ticket id that was never opened."""

    def __init__(self) -> None:
        super().__init__("ticket_not_found", "there is no such ticket")


class Forbidden(Refusal):
    """For example: a requester who asks for webhooks."""

    kind = "forbidden"

    def __init__(self, detail: str) -> None:
        super().__init__("forbidden", detail)


class Unacceptable(Refusal):
    """For example: `update_status` to "closed", which only `close` can reach."""

    kind = "unacceptable"


class StateConflict(Refusal):
    """For example: resolving a ticket that nobody is assigned to."""

    kind = "conflict"


class PersonGone(StateConflict):
    """For example: a note on a ticket whose requester has been erased. Nothing is kept of them."""

    def __init__(self) -> None:
        super().__init__(
            "person_erased",
            "the person whose words these would be has been erased; nothing is kept of them",
        )


_DAMAGED = "verify the log, and restore it from an export that is whole"
REMEDIES: Mapping[str, str] = {
    "unknown_event_type": f"upgrade this process, or, if no later version wrote it, {_DAMAGED}",
    "unknown_event_schema": f"upgrade this process, or, if no later version wrote it, {_DAMAGED}",
    "unreadable_event": _DAMAGED,
    "unreadable_envelope": _DAMAGED,
    "not_an_event": _DAMAGED,
    "not_the_next_version": _DAMAGED,
    "opened_twice": _DAMAGED,
    "not_opened": _DAMAGED,
    "event_sealed": "restore the keys of persons from a backup, or, if no key is missing, "
    + _DAMAGED,
    "not_erased": "ask for the erasure again, and, if it fails again, verify the log",
    "not_the_next_step": "ask for the erasure again, and, if it fails again, verify the log",
}
"""What an operator is to do about each code of a HistoryError."""


class HistoryError(CasebookError):
    """For example: a stored event of a type that this version of Casebook does not know.

    Its detail says what is wrong, of which event if that is known, and what is to be done.
    """

    def __init__(self, code: str, detail: str, *, place: str | None = None) -> None:
        told = detail if place is None else f"{place}: {detail}"
        super().__init__(code, f"{told}; {REMEDIES[code]}")
        self._what, self._place = detail, place

    def at(self, ticket_id: UUID, version: int) -> "HistoryError":
        """Return the same error with the event that it is about, unless it names one."""
        if self._place is not None:
            return self
        return HistoryError(self.code, self._what, place=f"event {version} of ticket {ticket_id}")
