"""Load a small part of a real incident log, and say what to try with it."""

from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from api.settings import Settings
from scripts.console import database, run, screen
from scripts.import_log import FORMATS, Tally, import_into, read, summarise

_SAMPLE = Path(__file__).parent / "sample" / "servicenow.csv"


async def main() -> int:
    settings = Settings.from_environment()
    format_ = FORMATS["servicenow"]
    tally = Tally()
    histories = read(format_, _SAMPLE, tally)
    async with database(settings) as db:
        ids = await import_into(db, format_, histories, tally)
    screen.print(summarise(tally))
    longest = max(histories, key=lambda history: len(history.steps))
    address = f"http://{settings.host}:{settings.port}"
    if not _answers(address):
        print("The server is not running: start it with `make run`. Then try:")
    else:
        print("Try:")
    print(f"  curl -s {address}/tickets/{ids[longest.number]}/timeline")
    print(f"  curl -s '{address}/tickets?status=open&limit=3'")
    print(f"  curl -s '{address}/dashboard?date=2016-03-31'")
    print(f"  curl -s '{address}/dashboard/series?metric=backlog&from=2016-03-01&to=2016-03-31'")
    return 0


def _answers(address: str) -> bool:
    try:
        with urlopen(f"{address}/healthz", timeout=1) as answer:  # noqa: S310 our own address
            return bool(answer.status == 200)
    except (URLError, OSError):
        return False


if __name__ == "__main__":
    run(main)
