"""Fast copies of states, for folds that make one or two for each event of a long log.

A state is a dataclass without slots, all of whose fields are given to it. Its copy takes all
of them over at once, where `dataclasses.replace` sets each by itself: a sixth of the time for
twenty fields.
"""

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from dataclasses import replace  # the type checker knows which fields there are
else:
    State = TypeVar("State")

    def replace(state: State, **changes: object) -> State:
        """Return a copy with some fields changed."""
        copy = object.__new__(type(state))
        copy.__dict__.update(state.__dict__, **changes)
        return copy


__all__ = ["replace"]
