"""What can go wrong in the domain.

CasebookError
├── Refusal                 a well-formed command that is not accepted; nothing has changed
│   ├── NotFound            what is named does not exist
│   │   └── TicketNotFound
│   ├── Forbidden           who asks has no business with it
│   ├── Unacceptable        the command is at fault: what it says, names, or who says it
│   └── StateConflict       the ticket's present state forbids it; in another state it might pass
│       └── PersonGone      whose words they would be has been erased
└── HistoryError            stored events that cannot be: unknown, unreadable or out of order

Every error carries a stable `code` for programs and a `detail` for people. A refusal's detail says
why, and what to do instead where there is something. Codes are part of the API and are never reused
for another meaning.
"""

from pydantic import ValidationError

_MOST_FAULTS = 5


def faults_of(error: ValidationError) -> str:
    """Say what does not fit, and where; not the values, which are nobody's but the ticket's."""
    faults = error.errors(include_url=False, include_context=False, include_input=False)
    told = [
        f"{'.'.join(map(str, fault['loc'])) or 'all of it'}: {fault['msg']}" for fault in faults
    ]
    return "; ".join(told[:_MOST_FAULTS])


class CasebookError(Exception):
    """Root of all errors that Casebook raises on purpose."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class Refusal(CasebookError):
    """A command that was understood and not accepted. State is unchanged."""


class NotFound(Refusal):
    """For example: a version of something that it has not reached."""


class TicketNotFound(NotFound):
    """For example: a reply to a ticket id that was never opened."""

    def __init__(self) -> None:
        super().__init__("ticket_not_found", "there is no such ticket")


class Forbidden(Refusal):
    """For example: a requester who asks for webhooks."""

    def __init__(self, detail: str) -> None:
        super().__init__("forbidden", detail)


class Unacceptable(Refusal):
    """For example: `update_status` to "closed", which only `close` can reach."""


class StateConflict(Refusal):
    """For example: resolving a ticket that nobody is assigned to."""


class PersonGone(StateConflict):
    """For example: a note on a ticket whose requester has been erased. Nothing is kept of them."""

    def __init__(self) -> None:
        super().__init__(
            "person_erased",
            "the person whose words these would be has been erased; nothing is kept of them",
        )


class HistoryError(CasebookError):
    """For example: a stored event of a type that this version of Casebook does not know."""
