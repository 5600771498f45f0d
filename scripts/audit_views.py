"""Compare the views with the log while everything runs, and say what differs.

Every read document with the fold of its ticket's events, every counter with the sum over all
tickets, the counts of saved views, the checkpoints. Nothing is written.
Exit 0: all equal; 1: something differs.
"""

import argparse

from api.settings import Settings
from eventstore.store import EventStore
from projections.audit import Auditor
from scripts.console import database, progress, run, screen


def _count(text: str) -> int:
    number = int(text)
    if number < 0:
        raise ValueError(text)
    return number


async def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m scripts.audit_views",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--most", type=_count, default=50, metavar="N", help="differences to show (50)"
    )
    options = parser.parse_args()
    async with database(Settings.from_environment()) as db:
        differences = 0
        with progress() as bar:
            task = bar.add_task("auditing", total=None, rate="tickets")
            auditor = Auditor(
                db,
                EventStore(db),
                lambda done, total: bar.update(task, completed=done, total=total),
            )
            async for difference in auditor.differences():
                differences += 1
                if differences <= options.most:
                    bar.console.print(
                        str(difference), markup=False, highlight=False, soft_wrap=True
                    )
    if differences > options.most:
        screen.print(f"and {differences - options.most} more", highlight=False)
    if auditor.waiting:
        events = sum(auditor.waiting.values())
        told = f"{len(auditor.waiting)} parked, with {events} events that are not in the views"
        screen.print(told, highlight=False)
    found = "all equal" if not differences else f"what differs: {differences}"
    compared = f"{auditor.tickets} tickets and {auditor.numbers} numbers compared"
    screen.print(f"{compared}; {found}", highlight=False)
    return 1 if differences else 0


if __name__ == "__main__":
    run(main)
