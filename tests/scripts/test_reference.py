"""The pages of docs that are made from the code are those of this code."""

import re

import pytest

from api.queries.lists.routes import ListQuery
from scripts.reference import views
from scripts.reference.__main__ import FOLDER, PAGES
from tests.processes import ROOT
from tests.test_architecture import LAYERS


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_made_from_the_code(name):
    assert (FOLDER / name).read_text() == PAGES[name](), "run: casebook reference"


def test_each_page_of_the_reference_is_made_or_recorded():
    pages = {f"reference/{path.name}" for path in (FOLDER / "reference").glob("*.md")}
    recorded = {"reference/database-commands.md"}
    assert pages | {"decisions/README.md"} == PAGES.keys() | recorded


def test_each_variable_that_is_read_is_among_the_settings():
    files = [path for room in LAYERS for path in (ROOT / room).rglob("*.py")]
    files += [ROOT / "Makefile", *ROOT.glob("compose*.yaml"), *(ROOT / "tests").glob("*.py")]
    named = {
        name
        for path in files
        for name in re.findall(r"\bCASEBOOK_[A-Z_]*[A-Z]\b", path.read_text())
    }
    page = (FOLDER / "reference" / "settings.md").read_text()
    assert named - set(re.findall(r"^\| `(CASEBOOK_\w+)`", page, re.MULTILINE)) == set()


def test_each_collection_that_is_used_is_explained():
    recorded = (FOLDER / "reference" / "database-commands.md").read_text()
    explained = [name for of in views.COLLECTIONS.values() for name in of]
    assert sorted(explained) == sorted(re.findall(r"^## (\w+)$", recorded, re.MULTILINE))


def test_each_condition_of_a_list_has_its_index():
    page = PAGES["reference/views.md"]()
    no_conditions = {"after", "as_of_view", "view", "sort", "limit", "cursor", "count"}
    conditions = ListQuery.model_fields.keys() - no_conditions
    assert set(re.findall(r"^\| `(\w+)` \| `[-\w]+` \| `", page, re.MULTILINE)) == conditions
