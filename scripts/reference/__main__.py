"""Write the pages of docs that are made from the code.

These are docs/reference and the index of docs/decisions. One page is recorded from a running system
instead: python -m tests.scripts.test_database_commands writes docs/reference/database-commands.md.
"""

import argparse
from collections.abc import Callable, Mapping
from pathlib import Path

from scripts.cli import start
from scripts.reference import (
    api,
    command_line,
    decisions,
    events,
    lifecycle,
    metrics,
    problems,
    settings,
    views,
)

FOLDER = Path(__file__).parents[2] / "docs"
PAGES: Mapping[str, Callable[[], str]] = {
    "reference/api.md": api.made,
    "reference/command-line.md": command_line.made,
    "reference/events.md": events.made,
    "reference/lifecycle.md": lifecycle.made,
    "reference/metrics.md": metrics.made,
    "reference/problems.md": problems.made,
    "reference/settings.md": settings.made,
    "reference/views.md": views.made,
    "decisions/README.md": decisions.made,
}


async def main(_: argparse.Namespace) -> int:
    for name, made in PAGES.items():
        FOLDER.joinpath(name).write_text(made())
    return 0


if __name__ == "__main__":
    start("reference", main)
