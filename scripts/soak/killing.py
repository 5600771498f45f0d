"""Processes that are killed at chosen steps of their work, as by `kill -9`.

A soak runs a function of its own in a child process: `child`. Where such a function begins with
`die_at`, the process kills itself when it comes to a point for the nth time; `killed` runs it and
sees that it does. A point is before or after one of the steps that a piece of work goes through.
"""

import os
import signal
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import cycle, islice

from scripts.console import with_progress
from scripts.testbed.promises import CHILD, READY_SECONDS, code_of, process, require

Steps = Mapping[str, object]
"""Names of functions, and the class or module that each is in."""
Work = Callable[..., Awaitable[object]]

NEVER = "never"


def points_of(steps: Steps) -> tuple[str, ...]:
    """Return the points before and after each step, which must then be a coroutine function."""
    return tuple(f"{when} {step}" for step in steps for when in ("before", "after"))


def in_turn(points: Sequence[str], rounds: int) -> Iterator[str]:
    """Yield one point after the other, so many in all, with a progress bar."""
    return with_progress([*islice(cycle(points), rounds)], "killing", "rounds")


def die_at(steps: Steps, point: str, nth: str) -> None:
    """Have this process kill itself where it comes to a point for the nth time."""
    when, _, name = point.partition(" ")
    if name not in steps:
        return
    step = getattr(steps[name], name)
    left = int(nth)

    def reach() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def before(*args: object, **more: object) -> object:
        reach()
        return step(*args, **more)

    async def after(*args: object, **more: object) -> object:
        result = await step(*args, **more)
        reach()
        return result

    setattr(steps[name], name, before if when == "before" else after)


def child(work: Work, *args: object) -> AbstractAsyncContextManager[Process]:
    """Run a module's function in a process until the block ends; its arguments come as text."""
    return process(*_words(work, args))


async def killed(work: Work, *args: object, seconds: float = READY_SECONDS) -> None:
    """Run a module's function in a process that is to kill itself. Raises PromiseBroken."""
    code = await code_of(*_words(work, args), seconds=seconds)
    require(code == -signal.SIGKILL, f"{args}: it ended with {code}, and not by a kill")


def _words(work: Work, args: tuple[object, ...]) -> list[str]:
    return [CHILD, f"{work.__module__}:{work.__qualname__}", *map(str, args)]
