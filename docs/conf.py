"""The site made of these pages: `make docs`. Sphinx reads them as GitHub does, by MyST."""

import re

from sphinx.application import Sphinx

project = "Casebook"
html_title = "Casebook"
root_doc = "README"
extensions = ["myst_parser"]
myst_heading_anchors = 4
html_theme = "furo"
html_copy_source = False
html_show_copyright = False
suppress_warnings = ["misc.highlighting_failure"]  # JSON with ... in it


def add_contents(_: Sphinx, page: str, source: list[str]) -> None:
    """Make of the links of a README, by heading, the contents of its folder.

    A page that none of them links is in no contents, which fails the build.
    """
    if not page.endswith("README"):
        return
    caption = ""
    entries: dict[str, list[str]] = {}
    for heading, link in re.findall(r"^## (.+)|\]\(([\w/.-]+)\.md\)", source[0], re.MULTILINE):
        caption = heading or caption
        if link:
            entries.setdefault(caption, []).append(link)
    if caption:
        entries.pop("", None)  # links in the introduction
    for caption, links in entries.items():
        told = [f":caption: {caption}"] if caption else []
        lines = ["```{toctree}", ":hidden:", *told, "", *dict.fromkeys(links), "```"]
        source[0] += "\n" + "\n".join(lines) + "\n"


def setup(app: Sphinx) -> None:
    """Have it done for each page."""
    app.connect("source-read", add_contents)
