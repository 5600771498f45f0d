"""Put the log's promises under stress: races, kills at bad moments, consumers that come and go.

    python -m scripts.soak race             50 writers in 3 processes on one ticket and on many
    python -m scripts.soak kill-api         kill -9 of the API, at random and at named points
    python -m scripts.soak kill-database    kill -9 of the embedded database under load
    python -m scripts.soak merge            opposite merges at once, and kills between the halves
    python -m scripts.soak follow           a consumer stopped and started at random under 8 writers

Each works on a database of its own in a temporary folder, checks the whole log at the end, prints
what it counted and exits 1 if a promise was broken. Short forms of all are in the test suite.
"""

import argparse
import sys

from scripts.console import run
from scripts.soak.follow import follow
from scripts.soak.kill import kill_api, kill_database, serve_and_die
from scripts.soak.merge import killed_alone, killed_merges, merge_and_die, opposite_merges
from scripts.soak.promises import scratch
from scripts.soak.race import race


async def main() -> int:
    if sys.argv[1:2] == ["_serve"]:
        url, port, point, nth = sys.argv[2:]
        return await serve_and_die(url, int(port), point, int(nth))
    if sys.argv[1:2] == ["_merge"]:
        return await merge_and_die(*sys.argv[2:])
    parser = argparse.ArgumentParser(
        prog="python -m scripts.soak",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=["race", "kill-api", "kill-database", "merge", "follow"])
    parser.add_argument("--rounds", type=int, help="rounds, or commands to follow")
    options = parser.parse_args()
    if options.what == "kill-database":
        counted = await kill_database(options.rounds or 100)
    else:
        async with scratch() as url:
            if options.what == "race":
                counted = await race(url, options.rounds or 1000)
            elif options.what == "kill-api":
                counted = await kill_api(url, options.rounds or 300)
            elif options.what == "merge":
                counted = await opposite_merges(url, options.rounds or 200)
                counted += await killed_merges((options.rounds or 200) // 10)
                counted += await killed_alone(url)
            else:
                counted = await follow(url, options.rounds or 20_000)
    print("held: " + ", ".join(f"{name} {n}" for name, n in counted.items()))
    return 0


if __name__ == "__main__":
    run(main)
