"""What the pages name is there: files of the repository, and pages that they link to."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    path
    for path in (*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md"))
    if path.name != "CHANGELOG.md"  # it names what was there
)
ROOMS = ("domain", "eventstore", "projections", "api", "scripts", "tests", "docs")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if page.parent.name != "decisions"],  # these name what was there
    ids=lambda path: path.name,
)
def test_files_that_a_page_names_exist(page):
    named = re.findall(rf"`((?:{'|'.join(ROOMS)})/[\w./-]*)`", page.read_text())
    assert [name for name in named if not (ROOT / name).exists()] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda path: path.name)
def test_pages_that_a_page_links_to_exist(page):
    targets = re.findall(r"\]\(([^)#\s]+)(#[^)\s]*)?\)", page.read_text())
    local = [target for target, _ in targets if "://" not in target]
    assert [target for target in local if not (page.parent / target).exists()] == []


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
