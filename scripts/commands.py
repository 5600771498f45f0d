"""The commands, by what one wants to do, and the words that each takes.

Only the standard library is imported here, and names that need no more: so help comes at once, and
so does what is wrong with the words, before anything of Casebook is loaded. A command is the
module of its name, whose docstring is its description: `async def main(options) -> exit code`.
"""

import argparse
import os
import re
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, date, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import NamedTuple, NoReturn
from uuid import UUID

from api.access.scopes import ROLES, SCOPES
from api.suggestions import did_you_mean

USAGE_EXIT_CODE = 2
FORMATS = ("helpdesk", "servicenow")
"""What `casebook import` reads, each a module of `scripts.import_formats`."""
_MOST_WORKERS = 64
_MOST_DAYS = 36_500
_ERRNO = re.compile(r"\[Errno -?\d+\] ")
"""What Python puts before the system's words."""
_IN_A_CHECKOUT = "Develop, in a checkout"


def fail(detail: str) -> None:
    """Say on standard error what went wrong."""
    text = f"error: {_ERRNO.sub('', detail)}"
    is_red = sys.stderr.isatty() and "NO_COLOR" not in os.environ
    print(f"\x1b[31m{text}\x1b[0m" if is_red else text, file=sys.stderr)


class Parser(argparse.ArgumentParser):
    """Says in one line what is wrong, with the nearest word that is known."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong with the words, and exit."""
        hint = f": {self.prog} --help"
        wrong = re.search(r"invalid choice: '(.*?)'|unrecognized arguments: (\S+)", message)
        if wrong is not None:
            hint = did_you_mean(wrong[1] or wrong[2], self.words()) or hint
        fail(message + hint)
        sys.exit(USAGE_EXIT_CODE)

    def words(self) -> Iterator[str]:
        """Yield the options and choices that there are."""
        for action in self._actions:
            yield from action.option_strings
            for choice in action.choices or ():
                yield str(choice)
            if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001 it has no other name
                for each in action.choices.values():
                    yield from each.words()

    def flag(self, name: str, about: str) -> None:
        """Take a word that stands alone."""
        self.add_argument(name, action="store_true", help=about)

    def file(self, name: str, about: str, metavar: str = "FILE") -> None:
        """Take an option that names a file."""
        self.add_argument(name, type=Path, metavar=metavar, help=about)

    def commands(self) -> "argparse._SubParsersAction[Parser]":
        """Return what adds parsers of commands below this one, of which one must be named."""
        return self.add_subparsers(dest="what", metavar="COMMAND", required=True)


def _between(least: int, most: int) -> Callable[[str], int]:
    def number(text: str) -> int:
        with suppress(ValueError):
            if least <= int(text) <= most:
                return int(text)
        raise argparse.ArgumentTypeError(f"{text!r} is no number from {least} to {most}")

    return number


def _moment(text: str) -> date | datetime:
    """Read a time with its zone, or a day."""
    with suppress(ValueError):
        return date.fromisoformat(text)
    with suppress(ValueError, OverflowError):
        moment = datetime.fromisoformat(text)
        if moment.tzinfo is None:
            raise argparse.ArgumentTypeError(f"{text} has no zone: write {text}Z for UTC")
        return moment.astimezone(UTC)
    raise argparse.ArgumentTypeError(
        f"{text!r} is no time: write 2026-03-31, or 2026-03-31T12:00:00Z"
    )


# --- the words of each command -------------------------------------------------------------------


def _backup(parser: Parser) -> None:
    parser.add_argument("folder", type=Path, help="is made; must not be there")
    parser.file("--passphrase-file", "seal the keys under its first line, not under the master key")


def _bench(parser: Parser) -> None:
    parser.add_argument("what", help="as listed above, or all")
    parser.add_argument("--rounds", type=int, default=5, help="counted rounds (5)")
    parser.add_argument("--seconds", type=float, default=3.0, help="of load at a time (3)")
    parser.add_argument(
        "--tickets",
        type=int,
        nargs="+",
        default=[10_000, 100_000, 1_000_000],
        help="of the dashboard (10000 100000 1000000); of all else: the second",
    )
    parser.add_argument(
        "--events",
        type=int,
        default=1_000_000,
        help="of the log that is replayed, and of the longest of growth (1000000)",
    )
    parser.flag("--record", "put what is found into docs/explanation/performance.md")


def _checkpoint(parser: Parser) -> None:
    parser.add_argument(
        "--restored", metavar="WHY", help="the log was restored: sign that, and why"
    )
    parser.file("--export", "with all heads, to be kept")


def _export(parser: Parser) -> None:
    parser.add_argument("file", type=Path)


def _import(parser: Parser) -> None:
    parser.add_argument("format", choices=FORMATS)
    parser.add_argument("file", type=Path, help="a csv file; .xz and .gz are unpacked")
    parser.add_argument(
        "--encoding",
        metavar="NAME",
        help="the file's encoding, unless it is UTF-8 or says so itself: cp1252 for example; rows "
        "that are not in it are left out",
    )
    parser.file("--report", "list all findings there")
    parser.file("--check", "compare with a table of expected results", "EXPECTED")


def _keys(parser: Parser) -> None:
    what = parser.commands()
    make = what.add_parser("make", help="make a key and print it")
    make.add_argument("principal", help="whose it is to be")
    make.add_argument("role", choices=ROLES)
    make.add_argument("--scope", action="append", choices=SCOPES, help="unless given: all")
    make.add_argument(
        "--days", type=_between(1, _MOST_DAYS), help="good for so many days; unless given: for ever"
    )
    link = what.add_parser("link", help="print an address that signs them in once")
    link.add_argument("principal", help="who they are")
    link.add_argument("role", choices=ROLES)
    what.add_parser("list", help="list all keys")
    revoke = what.add_parser("revoke", help="make a key good for nothing")
    revoke.add_argument("id", help="as listed; the part of a key before the last _")
    revoke.flag("--with-made", "also all that was made with it")


def _mongo_users(parser: Parser) -> None:
    what = parser.commands()
    what.add_parser("make", help="make roles and users, and print the users' URLs")
    shown = what.add_parser("print", help="print the roles, and do nothing")
    shown.add_argument("name", help="the database's")
    shown.flag("--atlas", "as commands for Atlas")
    what.add_parser("check", help="try what each user must be refused")


def _persons(parser: Parser) -> None:
    what = parser.commands()
    for name, about in (
        ("show", "who it is, and how far an erasure has come"),
        ("data", "all that is held on them, a line each"),
        ("erase", "for good: there is no way back"),
    ):
        one = what.add_parser(name, help=about)
        one.add_argument("name")
        if name == "erase":
            one.add_argument("--reason", required=True, help="kept for ever: name nobody in it")
    what.add_parser("new-master-key", help="print a new master key")
    what.add_parser("rewrap", help="wrap the keys of all persons by the first master key")


def _replay(parser: Parser) -> None:
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--verify", action="store_true", help="compare, and write nothing")
    what.add_argument("--ticket", type=UUID, nargs="+", default=[], metavar="ID", help="only these")
    what.add_argument(
        "--until", type=_moment, metavar="TIME", help="a day of the desk's, or a time with zone"
    )
    what.add_argument("--rollback", action="store_true", help="show what was shown before")
    what.add_argument("--list", action="store_true", help="list views as of a time")
    what.add_argument("--drop", metavar="NAME", help="drop views as of a time")
    parser.add_argument("--name", help="with --until: what to ask for them by")
    parser.add_argument(
        "--by",
        choices=("occurred", "recorded"),
        help="with --until: what had happened then (occurred, the default), or was known then",
    )
    parser.flag("--keep-old", "keep what was shown before")
    parser.flag("--accept-loss", "even if events have vanished from the log")
    parser.add_argument(
        "--workers",
        type=_between(0, _MOST_WORKERS),
        default=min(4, os.cpu_count() or 1),
        metavar="N",
        help="processes to fold with, up to 64; 0: this one (as many as processors, at most 4)",
    )
    parser.add_argument(
        "--most", type=int, default=50, metavar="N", help="differences to show (50)"
    )
    parser.flag("--json", "a JSON document a line, for machines")


def _check_replay(parser: Parser, options: argparse.Namespace) -> None:
    if options.until is None and (options.name or options.by):
        parser.error("--name and --by go with --until")
    if (options.keep_old or options.accept_loss) and (
        options.verify or options.ticket or options.until or options.rollback
    ):
        parser.error("--keep-old and --accept-loss go with building all views")


def _restore(parser: Parser) -> None:
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument(
        "path", type=Path, nargs="?", metavar="PATH", help="a backup's folder, or a log's file"
    )
    what.add_argument("--by-database-tools", action="store_true", help="it is done already")
    parser.file(
        "--erasures", "person_events.ndjson of a later backup: who was erased since stays so"
    )
    parser.add_argument("--why", help="kept with the signed statement that the log was restored")
    parser.flag("--incomplete", "whatever is missing")
    parser.file("--passphrase-file", "opens the keys")


def _serve(parser: Parser) -> None:
    parser.add_argument(
        "--workers",
        type=_between(1, _MOST_WORKERS),
        default=1,
        metavar="N",
        help="processes that answer (1)",
    )
    parser.add_argument("--listening", type=int, help=argparse.SUPPRESS)


def _soak(parser: Parser) -> None:
    parser.add_argument("what", help="as listed above")
    parser.add_argument("--rounds", type=int, help="rounds; commands, requests, events; seconds")
    parser.file("--done", "of faults: a list of what is done, to go on with")


def _verify(parser: Parser) -> None:
    parser.file("--file", "an exported file, instead of the database")
    parser.file("--checkpoint", "one kept elsewhere")
    parser.file("--key", "the public key of checkpoints")
    parser.flag("--unsigned", "there need be no signed checkpoint")
    parser.flag(
        "--views",
        "compare with what the views show, too, as is always done with the embedded database",
    )
    parser.add_argument(
        "--within",
        type=float,
        metavar="SECONDS",
        help="a checkpoint must stand for every event that is older",
    )


# --- all of them ---------------------------------------------------------------------------------


class Command(NamedTuple):
    """A command: its module in `scripts`; its words, and what must be so of them together."""

    module: str
    declare: Callable[[Parser], None] = lambda _: None
    check: Callable[[Parser, argparse.Namespace], None] | None = None

    @property
    def about(self) -> str:
        """What its module says of itself: the docstring, which needs no import."""
        path = Path(__file__).parent.joinpath(*self.module.split("."))
        return path.with_suffix(".py").read_text().split('"""', 2)[1]


_GROUPS: Mapping[str, Mapping[str, Command]] = {
    "Try it": {"demo": Command("demo"), "import": Command("import_log", _import)},
    "Run it": {
        "serve": Command("serve", _serve),
        "project": Command("project"),
        "timekeeper": Command("timekeeper"),
    },
    "Let people in, and look after what is held on them": {
        "keys": Command("keys", _keys),
        "persons": Command("persons", _persons),
    },
    "Upgrade, and build views anew": {
        "migrate": Command("migrate"),
        "documents": Command("documents"),
        "number-tickets": Command("number_tickets"),
        "replay": Command("replay", _replay, _check_replay),
        "mongo-users": Command("mongo_users", _mongo_users),
    },
    "Back up, restore, and prove": {
        "backup": Command("backup", _backup),
        "restore": Command("restore", _restore),
        "export": Command("export", _export),
        "checkpoint": Command("checkpoint", _checkpoint),
        "verify": Command("verify", _verify),
    },
    "Use it in a program": {"openapi": Command("openapi")},
    _IN_A_CHECKOUT: {
        "soak": Command("soak.__main__", _soak),
        "bench": Command("bench.__main__", _bench),
        "screenshots": Command("testbed.screenshots"),
        "reference": Command("reference.__main__"),
    },
}


def groups() -> Mapping[str, Mapping[str, Command]]:
    """Return the commands that are installed here, by what one wants to do."""
    is_checkout = find_spec("scripts.soak") is not None
    return {name: each for name, each in _GROUPS.items() if is_checkout or name != _IN_A_CHECKOUT}


def commands() -> dict[str, Command]:
    """Return the commands that are installed here, by name."""
    return {name: each for group in groups().values() for name, each in group.items()}


def parser(name: str) -> Parser:
    """Return what reads the words of a command, and has its help."""
    made = Parser(
        prog=f"casebook {name}",
        description=commands()[name].about,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands()[name].declare(made)
    return made


def parse(name: str, words: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the words of a command; those that this process was started with unless given.

    Exits with one line if they make no sense.
    """
    reading = parser(name)
    options = reading.parse_args(words)
    check = commands()[name].check
    if check is not None:
        check(reading, options)
    return options
