"""Load a small part of a real incident log, and say what to try with it."""

import argparse
from contextlib import suppress
from pathlib import Path
from urllib.request import urlopen

from api.access.keys import KeyOrder, Keys, keep_in_file
from api.access.rights import Unauthenticated
from api.settings import Settings
from eventstore.key_files import names_for
from scripts.commands import parse
from scripts.console import database, run, screen, writing
from scripts.import_log import FORMATS, id_of, import_into, read
from scripts.logs.tally import Tally, summarise

_KEY = "demo-key"
_SAMPLE = Path(__file__).parent / "sample" / "servicenow.csv"


async def main(_: argparse.Namespace) -> int:
    settings = Settings.from_environment()
    format_ = FORMATS["servicenow"]
    tally = Tally()
    histories = read(format_, _SAMPLE, tally)
    async with database(settings) as db:
        await import_into(db, format_, histories, tally)
        path = settings.data_dir / _KEY
        with writing(path):
            key_file = await _keep_key(Keys(db), path, db.name)
    screen.print(summarise(tally))
    longest = max(histories, key=lambda history: len(history.steps))
    address = f"http://{settings.host}:{settings.port}"
    if not _answers(address):
        print("The server is not running: start it with `make run`.")
    print("Try:")
    print(f'  KEY="Authorization: Bearer $(cat {key_file})"')
    for asked in (
        f"tickets/{id_of(format_, longest.number)}/timeline",
        "tickets?solved=false&limit=3",
        "dashboard?date=2016-03-31",
        "dashboard/series?metric=backlog&from=2016-03-01&to=2016-03-31",
    ):
        print(f"  curl -s -H \"$KEY\" '{address}/{asked}'")
    return 0


async def _keep_key(keys: Keys, path: Path, database: str) -> Path:
    """Have a supervisor's key in a file, and return which: one that is there, if its key is good.

    Raises OSError if it cannot be kept.
    """
    for name in names_for(path, database):
        if not name.exists():
            break
        with suppress(UnicodeDecodeError, Unauthenticated):
            await keys.principal(name.read_text().strip())
            return name
    _, text = await keys.make(KeyOrder(principal="demo", role="supervisor"), "make demo")
    return keep_in_file(text, path, database)


def _answers(address: str) -> bool:
    with suppress(OSError), urlopen(f"{address}/healthz", timeout=1) as answer:  # noqa: S310 our own
        return bool(answer.status == 200)
    return False


if __name__ == "__main__":
    run(main, parse("demo"))
