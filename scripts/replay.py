"""Rebuild the views from the log.

Takes over from the running projector, empties the views and folds the whole log into them. Until it
is done lists and dashboard show what has been folded so far; single tickets and timelines show
everything throughout. Interrupted, it is finished by the next projector, or by running it again.
"""

import argparse

from api.settings import Settings
from eventstore.store import EventStore
from projections import projector
from scripts.console import database, progress, run, screen


async def main() -> int:
    argparse.ArgumentParser(
        prog="python -m scripts.replay", description=__doc__.partition("\n")[0]
    ).parse_args()
    async with database(Settings.from_environment()) as db:
        store = EventStore(db)
        await store.prepare()
        await projector.prepare(db)
        total = await store.count()
        with progress() as bar:
            task = bar.add_task("replaying", total=total, rate="events")
            folded = 0

            def advance(events: int) -> None:
                nonlocal folded
                folded += events
                bar.update(task, completed=folded, total=max(total, folded))

            await projector.Projector(db, store, advance).rebuild()
        screen.print(f"{folded} events replayed", highlight=False)
    return 0


if __name__ == "__main__":
    run(main)
