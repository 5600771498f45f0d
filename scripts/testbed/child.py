"""Run a function of a module in a process of its own: what is to be killed, or is measured.

`python -m scripts.testbed.child MODULE:FUNCTION WORD ...`: an `async def` that takes the words.
"""

import argparse
import sys
from pkgutil import resolve_name

from scripts.console import run


async def call(options: argparse.Namespace) -> int:
    await resolve_name(options.work)(*options.words)
    return 0


if __name__ == "__main__":
    run(call, argparse.Namespace(work=sys.argv[1], words=sys.argv[2:]))
