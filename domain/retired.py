"""What becomes of tickets that use what the desk has no more.

A set-up says it of groups, agents, custom fields and choices that former set-ups had, and it stays
said (`Desk.succeeding`) until the name is there again: a ticket may come into a group at the moment
in which that is taken away, or be imported years later.
"""

from collections.abc import Collection, Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from domain.values import FieldKey, Name, NameOfPerson, at_most

RETIRED_NAMES = 200
"""Of each kind; of more, the last ones are known."""

Moves = Annotated[dict[Name, Name | None], *at_most(RETIRED_NAMES)]
AgentMoves = Annotated[dict[NameOfPerson, NameOfPerson | None], *at_most(RETIRED_NAMES)]


class Retired(BaseModel):
    """What becomes of tickets that are not closed and use what is gone. `groups`: the group that
    they go to; `agents`: whose they are then, if that one belongs to their group; null for none.
    `fields`: whether they keep the value; `choices`: by field, which one takes the place of one,
    itself where tickets keep it.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, str_strip_whitespace=True)
    groups: Moves = Field(default_factory=dict)
    agents: AgentMoves = Field(default_factory=dict)
    fields: Annotated[dict[FieldKey, Literal["keep", "clear"]], *at_most(RETIRED_NAMES)] = Field(
        default_factory=dict
    )
    choices: Annotated[dict[FieldKey, Moves], *at_most(RETIRED_NAMES)] = Field(default_factory=dict)


def still_moved(moves: Mapping[str, str | None], there: Collection[str]) -> dict[str, str | None]:
    """Return the moves of names that are not there, each to one that is, or to none; the last."""
    gone = {
        name: to if to == name else _end(to, moves, there)
        for name, to in moves.items()
        if name not in there
    }
    return dict(list(gone.items())[-RETIRED_NAMES:])


def _end(name: str | None, moves: Mapping[str, str | None], there: Collection[str]) -> str | None:
    """Return where moves lead in the end: where one led may be taken away by another."""
    for _ in moves:
        if name is None or name in there:
            return name
        name = moves.get(name)
    return name if name in there else None
