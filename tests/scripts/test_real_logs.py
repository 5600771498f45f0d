"""The whole of both real logs, where they are at hand.

They are not part of the project. CASEBOOK_REAL_LOGS names a folder that holds
`uci498-servicenow/incident_events.csv.xz` and `expected_final_state.csv.xz` beside it, and
`helpdesk-italy/finale.csv.xz` and `expected_cases.csv.xz`.
"""

import os
from pathlib import Path

import pytest

from projections.generations import VIEWS, Generations
from scripts.import_formats.tally import Tally
from scripts.import_log import FORMATS, check, import_into, read
from tests.oracle import assert_views_equal_the_log
from tests.projecting import rebuilt

FOLDER = os.environ.get("CASEBOOK_REAL_LOGS")


@pytest.mark.skipif(not FOLDER, reason="CASEBOOK_REAL_LOGS names no folder")
@pytest.mark.parametrize(
    ("name", "log", "expected", "equal"),
    [
        (
            "servicenow",
            "uci498-servicenow/incident_events.csv.xz",
            "uci498-servicenow/expected_final_state.csv.xz",
            2405,
        ),
        (
            "helpdesk",
            "helpdesk-italy/finale.csv.xz",
            "helpdesk-italy/expected_cases.csv.xz",
            4089,
        ),
    ],
)
async def test_a_real_log_comes_out_as_expected(database, store, name, log, expected, equal):
    """L7: equal to an independent table but for what is reported; the same after a rebuild."""
    folder = Path(str(FOLDER))
    tally = Tally()
    histories = read(FORMATS[name], folder / log, tally)
    await import_into(database, FORMATS[name], histories, tally)
    assert await check(FORMATS[name], folder / expected, database, tally)
    assert tally.tickets - tally.count("differs") == equal
    await assert_views_equal_the_log(database)
    again = Tally()
    await import_into(database, FORMATS[name], histories, again)
    assert again.events == 0
    generations = Generations(database)
    reads = (await generations.shown()).collection("ticket_reads")
    before = await reads.find().sort("_id", 1).to_list()
    for view in VIEWS:  # by hand
        await (await generations.shown()).collection(view).drop()
    await rebuilt(database)
    await assert_views_equal_the_log(database)
    reads = (await generations.shown()).collection("ticket_reads")
    assert await reads.find().sort("_id", 1).to_list() == before
