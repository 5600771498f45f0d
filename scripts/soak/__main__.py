"""Put the promises of log and views under stress: races, kills at bad moments, coming and going.

    casebook soak race             50 writers in 3 processes on one ticket and on many
    casebook soak kill-api         kill -9 of the API, at random and at named points
    casebook soak kill-database    kill -9 of the embedded database under load
    casebook soak merge            opposite merges at once, and kills between the halves
    casebook soak proxy            clients that retry while every tenth answer is eaten
    casebook soak contract         requests of all kinds; is each answer as documented?
    casebook soak paging           a list read page by page while tickets change
    casebook soak follow           a consumer stopped and started at random under 8 writers
    casebook soak feed             consumers of the feed cut off while the server restarts
    casebook soak webhooks         their receiver cut off, their sender killed
    casebook soak kill-projector   kill -9 of a projector between any two steps of a batch
    casebook soak freeze           a projector frozen past its lease, and woken again
    casebook soak projectors       three projectors that come and go for a minute
    casebook soak replay           one replay after the other, under clients' load
    casebook soak kill-replay      kill -9 of a replay between any two steps
    casebook soak erase            kill -9 of an erasure of a person between any two steps
    casebook soak overload         more connections than can be served, for a minute
    casebook soak upgrade          a server over documents as every version wrote them
    casebook soak outage           a database that cuts off, and stands still for a while
    casebook soak faults           each command to the database fails in each way
    casebook soak failover         no primary for some seconds, under load

Each works on a database of its own in a temporary folder, checks the whole log (and the views) at
the end, prints what it counted and exits 1 if a promise was broken. Short forms of all are in the
test suite.
"""

import argparse
from collections import Counter
from collections.abc import Awaitable, Callable
from functools import partial

from api.suggestions import did_you_mean
from scripts.cli import UsageError, start
from scripts.soak.consumers import follow
from scripts.soak.contract import contract
from scripts.soak.erase import kill_erasure
from scripts.soak.faults import FAULTS, failover, faults
from scripts.soak.feed import feed
from scripts.soak.kill import kill_api, kill_database
from scripts.soak.merge import merges
from scripts.soak.outage import outage, overload
from scripts.soak.paging import page_through
from scripts.soak.projectors import come_and_go, freeze_projector, kill_projector
from scripts.soak.proxy import retry_through_proxy
from scripts.soak.race import race
from scripts.soak.replay import kill_replay, replay_under_load
from scripts.soak.upgrade import upgrade
from scripts.soak.webhooks import webhooks
from scripts.testbed.harness import scratch

_SOAKS: dict[str, tuple[Callable[[str, int], Awaitable[Counter[str]]], int]] = {
    "race": (race, 1000),
    "kill-api": (kill_api, 300),
    "kill-database": (kill_database, 100),
    "merge": (merges, 200),
    "proxy": (retry_through_proxy, 2_000),
    "contract": (contract, 100_000),
    "paging": (page_through, 10_000),
    "follow": (follow, 20_000),
    "feed": (feed, 10_000),
    "webhooks": (webhooks, 10_000),
    "kill-projector": (kill_projector, 300),
    "freeze": (freeze_projector, 30),
    "projectors": (come_and_go, 60),
    "replay": (replay_under_load, 30),
    "kill-replay": (kill_replay, 44),
    "erase": (kill_erasure, 50),
    "overload": (overload, 60),
    "upgrade": (upgrade, 20),
    "outage": (outage, 20),
    "faults": (faults, len(FAULTS)),
    "failover": (failover, 15),
}


async def main(options: argparse.Namespace) -> int:
    if options.what not in _SOAKS:
        raise UsageError(f"there is no soak {options.what}{did_you_mean(options.what, _SOAKS)}")
    soak, rounds = _SOAKS[options.what]
    if options.done is not None:
        if soak is not faults:
            raise UsageError("--done is for faults")
        soak = partial(faults, done=options.done)
    async with scratch() as url:
        counted = await soak(url, options.rounds or rounds)
    print("held: " + ", ".join(f"{name} {n}" for name, n in counted.items()))
    return 0


if __name__ == "__main__":
    start("soak", main)
