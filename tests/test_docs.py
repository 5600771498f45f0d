"""What the pages name is there, and what they link to; and those that are made are of this code."""

import re
from collections import Counter
from functools import cache
from itertools import pairwise
from pathlib import Path

import pytest
from markdown_it import MarkdownIt
from prometheus_client import generate_latest

from api.queries.lists.routes import ListQuery
from scripts.reference.__main__ import PAGES as MADE
from scripts.reference.markdown import slug
from scripts.reference.views import COLLECTIONS
from tests.test_architecture import LAYERS

ROOT = Path(__file__).parent.parent
PAGES = sorted((*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")))
DOCS = ROOT / "docs"
DECISIONS = DOCS / "decisions"
ROOMS = (*LAYERS, "tests", "docs", "requirements", ".ci")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "decisions"],  # these name what was there
    ids=lambda path: path.name,
)
def test_files_that_a_page_names_exist(page):
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@cache
def inner(page):
    """The tokens of a page's text: headings, links, pictures."""
    tokens = MarkdownIt("commonmark").enable("table").parse(page.read_text())
    return [
        (before.type, token.children)
        for before, token in pairwise(tokens)
        if token.type == "inline"
    ]


@cache
def anchors(page):
    """What can stand behind # for a page: as GitHub and the site have it."""
    found: Counter[str] = Counter()
    names = set()
    for kind, children in inner(page):
        if kind == "heading_open":
            name = slug("".join(each.content for each in children))
            names.add(f"{name}-{found[name]}" if found[name] else name)
            found[name] += 1
    return names


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_what_a_page_links_to_is_there(page):
    """Pages with the heading that is named, files, pictures."""
    missing = []
    links = [
        str(each.attrGet("href") or each.attrGet("src"))
        for _, children in inner(page)
        for each in children
        if each.type in ("link_open", "image")
    ]
    for link in links:
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        if "://" in link or link.startswith("mailto:"):
            continue
        if not target.exists() or (anchor and anchor not in anchors(target)):
            missing.append(link)
    assert missing == []


def test_a_decision_that_changes_others_is_named_by_them():
    for page in DECISIONS.glob("0*.md"):
        head, _, _ = page.read_text().partition("**Context.**")
        _, _, *changed = head.split("\n\n")
        for name in re.findall(r"\((\d{4}-[\w-]+\.md)\)", " ".join(changed)):
            theirs = (DECISIONS / name).read_text().split("\n\n")[1]
            assert page.name in theirs or "Superseded" in theirs, (page.name, name)


def test_files_of_the_map_are_in_the_room_that_it_names():
    """The map of the architecture names modules by the folder of their row."""
    page = (ROOT / "docs/explanation/architecture.md").read_text()
    rows = re.findall(r"^\| (·)? ?(.+?) \|(.+)$", page, re.MULTILINE)
    room, missing = "", []
    for inner, folders, rest in rows:
        if not inner:
            room = folders.strip("`") if folders.startswith("`") else ""
        within = re.findall(r"`([\w]+/)`", folders) if inner else [""]
        for name in re.findall(r"`(\w+\.py)`", rest):
            places = [ROOT / room / folder / name for folder in within or [""]]
            if not any(place.exists() for place in places):
                missing.append(f"{room}{folders}: {name}")
    assert missing == []


# --- what is made from the code -------------------------------------------------------------------


@pytest.mark.parametrize("name", MADE)
def test_a_page_is_made_from_the_code(name):
    assert (DOCS / name).read_text() == MADE[name](), "run: casebook reference"


def test_each_page_of_the_reference_is_made_or_recorded():
    pages = {f"reference/{path.name}" for path in (DOCS / "reference").glob("*.md")}
    recorded = {"reference/database-commands.md"}
    assert pages | {"decisions/README.md"} == MADE.keys() | recorded


def test_each_variable_that_is_read_is_among_the_settings():
    files = [path for room in LAYERS for path in (ROOT / room).rglob("*.py")]
    files += [ROOT / "Makefile", *ROOT.glob("compose*.yaml"), *(ROOT / "tests").glob("*.py")]
    named = {
        name
        for path in files
        for name in re.findall(r"\bCASEBOOK_[A-Z_]*[A-Z]\b", path.read_text())
    }
    page = (DOCS / "reference" / "settings.md").read_text()
    assert named - set(re.findall(r"^\| `(CASEBOOK_\w+)`", page, re.MULTILINE)) == set()


def test_each_collection_that_is_used_is_explained():
    recorded = (DOCS / "reference" / "database-commands.md").read_text()
    explained = [name for of in COLLECTIONS.values() for name in of]
    assert sorted(explained) == sorted(re.findall(r"^## (\w+)$", recorded, re.MULTILINE))


def test_each_metric_is_among_those_of_the_page():
    shown = re.findall(r"^# TYPE (casebook_\w+) ", generate_latest().decode(), re.MULTILINE)
    page = (DOCS / "reference" / "metrics.md").read_text()
    assert [name for name in shown if f"`{name.removesuffix('_created')}" not in page] == []


def test_each_condition_of_a_list_has_its_index():
    served = re.findall(
        r"^\| `.+` \| lists by (.+) \|$", MADE["reference/views.md"](), re.MULTILINE
    )
    no_conditions = {"after", "as_of_view", "view", "sort", "limit", "cursor", "count"}
    conditions = ListQuery.model_fields.keys() - no_conditions
    assert set(re.findall(r"`(\w+)`", " ".join(served))) == conditions
