"""Python's search for garbage in cycles, for processes that keep much and make little of it.

What a log is folded to is no garbage, and thousands of such objects at a time have Python look
through all that there is again and again: a third of the time of a replay's proof. What is thrown
away is freed at once without it; only cycles wait for the search, and few are made here.
"""

import gc

_COLLECTED_EVERY = 20_000  # objects made and not freed yet


def tune_gc() -> None:
    """Have garbage be looked for less often, and not among what has been imported."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECTED_EVERY, 20, 50)
