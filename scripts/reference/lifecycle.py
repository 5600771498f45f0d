"""lifecycle.md: the states of a ticket, and the commands that lead from one to another."""

from inspect import getdoc

from domain.tickets import COMMANDS
from domain.tickets.command import lifecycle
from scripts.reference.markdown import first_paragraph, listed, page, table

_STATES = """
- *new*: nobody has taken it on. Assigning it or an agent's reply opens it; nothing returns to new.
- *open*: staff is to act.
- *pending* waits for the requester, whose reply opens it again; *on_hold* waits for a third party.
  Both need a reason, and may name a time (`resume_at`) at which the ticket is opened again by
  itself.
- *resolved* needs an assignee and says how. `reopen` or the requester's reply takes it back to
  open. It can be rated now, by the requester.
- *closed* is final, but that a merge can be undone. A resolved ticket is closed by `close`, or by
  itself after as many days as the desk says; any other by `close` with the reason why no solution
  is owed, by its requester, or by `merge` into a ticket that goes on for both. No `update_status`
  leads here. A closed ticket still takes tags, a rating, `unfollow` and, unless it was merged,
  links; a requester's reply goes to the ticket in which its conversation goes on, or opens a
  follow-up ticket, linked both ways.

Links of a kind (`blocks`, `duplicates`, `parent`) must not lead from a ticket back to itself: they
are refused as far as that can be known, and `rings` of `GET /tickets/{ticket_id}` points out those
that two commands at once, or a merge, have made.

The clock against which answers and solutions are promised runs from the opening while the ticket is
new, open or on hold, and stands while it is pending, resolved or closed. Another priority promises
from the same opening on.

What every command does in every state is written out in `tests/domain/test_lifecycle.py`.
""".strip()


def made() -> str:
    """Return the page."""
    return page(
        "The lifecycle of a ticket",
        "A ticket is opened by `open` and is *new*. The table says which commands lead from"
        " one state to another.",
        ways(),
        "## States",
        _STATES,
        "## Commands",
        "`POST /tickets` opens a ticket; every other command is `POST /tickets/{ticket_id}/<verb>`,"
        " and `POST /bulk/<verb>` for up to 100 tickets. What each takes is in the"
        " [API](api.md#commands).",
        commands(),
    )


def ways() -> str:
    """Return a table: from which state (row) which commands lead to which state (column)."""
    found = lifecycle()
    states = [state for state in found if state != "new"]
    return table(
        ["from", *(f"to {state}" for state in states)],
        (
            [f"**{state}**", *(listed(sorted(v for v in by if to in by[v])) for to in states)]
            for state, by in found.items()
        ),
    )


def commands() -> str:
    """Return a table: each command's verb, what it does, who may send it."""
    return table(
        ["verb", "what it does", "who may send it"],
        (
            [
                f"`{verb}`",
                first_paragraph(getdoc(command)),
                ", ".join(sorted(f"{role}s" for role in command.allowed)),
            ]
            for verb, command in COMMANDS.items()
        ),
    )
