"""command-line.md: every command with its words, from what reads them."""

import argparse
from collections.abc import Iterator
from textwrap import dedent

from scripts.commands import groups, parser
from scripts.reference.markdown import fenced, page, table

_INTRODUCTION = """
`make run` puts the command into `.venv/bin/casebook`. `casebook` alone lists the commands, and
`casebook COMMAND --help` says what is said here. `python -m scripts.serve` is the same as
`casebook serve`, and so on. Commands use the database that the [settings](settings.md) name: the
running server's embedded database, started if it does not run, unless `CASEBOOK_MONGODB_URL` is
set. An error is one line and exit code 1, or what a command says of itself below; words that make
no sense are exit code 2.
"""


def made() -> str:
    """Return the page."""
    parts = []
    for group, of_group in groups().items():
        parts.append(f"## {group}")
        for name, command in of_group.items():
            parts += [f"### casebook {name}", *_told(command.about), *_words(parser(name))]
    return page("The command line", _INTRODUCTION, *parts)


def _told(about: str) -> Iterator[str]:
    """Yield the paragraphs of a docstring; those that are indented are laid out by hand."""
    for paragraph in about.strip().split("\n\n"):
        yield fenced("text", dedent(paragraph)) if paragraph.startswith(" ") else paragraph


def _words(reading: argparse.ArgumentParser) -> Iterator[str]:
    """Yield tables of what a command takes, one for each command below it."""
    actions = [a for a in reading._actions if a.help != argparse.SUPPRESS and a.dest != "help"]  # noqa: SLF001 there is no other way to them
    below = [each for each in actions if isinstance(each, argparse._SubParsersAction)]  # noqa: SLF001
    yield table(
        [f"`{reading.prog}`", "what it is"],
        ([f"`{_word(each)}`", _about(each)] for each in actions if each not in below),
    )
    for each in below:
        for one in each.choices.values():
            yield from _words(one)


def _word(action: argparse.Action) -> str:
    name = "" if action.nargs == 0 else action.metavar or action.dest.upper()
    if action.choices and not action.metavar:
        name = "|".join(map(str, action.choices))
    many = " ..." if action.nargs in ("+", "*") else ""
    return " ".join(filter(None, [", ".join(action.option_strings), str(name)])) + many


def _about(action: argparse.Action) -> str:
    told = action.help or ""
    return f"{told}; must be given" if action.required and action.option_strings else told
