"""settings.md: every environment variable that Casebook reads, and those of its tests."""

from collections.abc import Mapping
from pathlib import Path

from api.settings import OTHERS, Settings, variables
from scripts.reference.markdown import page, table

OF_TESTS: Mapping[str, str] = {
    "CASEBOOK_TEST_MONGODB_URL": "A MongoDB that the tests run on, instead of embedded databases;"
    " `make test-mongodb` sets it.",
    "CASEBOOK_REAL_LOGS": "A folder with whole ticket logs, for `tests/scripts/test_real_logs.py`.",
    "CASEBOOK_TESTS_FOLDER": "Where the tests keep their files; set by the tests themselves.",
}
_INTRODUCTION = """
Settings are environment variables, and nothing else: there is no file of them. One that is set to
nothing counts as not set. A value that cannot be used, or a name that begins with `CASEBOOK_` and
is none of these, ends the start with one line.
"""


def made() -> str:
    """Return the page."""
    told = variables()
    settings = {f"CASEBOOK_{name.upper()}": about for name, about in Settings.model_fields.items()}
    return page(
        "Settings",
        _INTRODUCTION,
        table(
            ["variable", "unless set", "meaning"],
            ([f"`{n}`", _default(about.default), told[n]] for n, about in settings.items()),
        ),
        "## Keys and database users",
        table(["variable", "meaning"], ([f"`{name}`", what] for name, what in OTHERS.items())),
        "## For the tests",
        "A server does not read these.",
        table(["variable", "meaning"], ([f"`{name}`", what] for name, what in OF_TESTS.items())),
    )


def _default(value: object) -> str:
    match value:
        case None:
            return ""
        case bool():
            return f"`{str(value).lower()}`"
        case float():
            return f"`{value:g}`"
        case Path():
            return f"`./{value}`"
        case _:
            return f"`{value}`"
