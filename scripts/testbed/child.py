"""Functions of modules, each run in a process of its own: to be measured, or to be killed.

`python -m scripts.testbed.child MODULE:FUNCTION WORD ...` runs an `async def` that takes the words.
Where such a function begins with `die_at`, its process kills itself, as by `kill -9`, when it comes
to a point for the nth time. A point is before or after one of the steps that a piece of work goes
through.
"""

import argparse
import os
import signal
import sys
from asyncio.subprocess import Process
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from itertools import cycle, islice
from pkgutil import resolve_name

from eventstore.gc_tuning import tune_gc
from scripts.cli import run, with_progress
from scripts.testbed.harness import READY_SECONDS, code_of, process, require

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


def words_of(work: Work, *args: object) -> list[str]:
    """Return the module and its words that run a function; its arguments come as text."""
    name = f"{work.__module__}:{work.__qualname__}"
    return ["scripts.testbed.child", name, *map(str, args)]


def child(work: Work, *args: object) -> AbstractAsyncContextManager[Process]:
    """Run a function in a process until the block ends."""
    return process(*words_of(work, *args))


async def ended(work: Work, *args: object, seconds: float = READY_SECONDS) -> int | None:
    """Run a function in a process to its end; return the exit code, None if that takes longer."""
    return await code_of(*words_of(work, *args), seconds=seconds)


async def killed(work: Work, *args: object, seconds: float = READY_SECONDS) -> None:
    """Run a function in a process that is to kill itself. Raises PromiseBroken."""
    code = await ended(work, *args, seconds=seconds)
    require(code == -signal.SIGKILL, f"{args}: it ended with {code}, and not by a kill")


async def call(options: argparse.Namespace) -> int:
    work = resolve_name(options.work)
    tune_gc()  # again: it passes over what has been imported
    await work(*options.words)
    return 0


if __name__ == "__main__":
    run(call, argparse.Namespace(work=sys.argv[1], words=sys.argv[2:]))
