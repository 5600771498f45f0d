"""Casebook's command lines, by one name: `casebook COMMAND ...`, and `casebook COMMAND --help`.

Each is the module of `scripts` that has its name, and `python -m scripts.<name>` does the same.
"""

import signal
import sys
import textwrap
from collections.abc import Callable
from importlib import import_module

from api.suggestions import did_you_mean
from scripts.commands import USAGE_EXIT_CODE, Command, commands, fail, groups, parse


def main() -> None:
    """Run the command that is named first, with the words that follow."""
    match sys.argv[1:]:
        case [] | ["help" | "-h" | "--help"]:
            signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # it may be read by `head`
            print("usage: casebook COMMAND ...    (casebook COMMAND --help: its options)")
            for wish, group in groups().items():
                print(f"\n{wish}:", *map(_entry, group, group.values()), sep="\n")
        case ["--version"]:
            print(f"casebook {import_module('api.version').version()}")
        case [name, *words] if name in commands():
            options = parse(name, words)
            # Not before: all of Casebook behind them takes half a second to import.
            command = import_module(f"scripts.{commands()[name].module}")
            run: Callable[..., None] = import_module("scripts.cli").run
            run(command.main, options)
        case [name, *_]:
            known = did_you_mean(name, commands())
            fail(f"there is no command {name}{known or ': casebook lists them'}")
            sys.exit(USAGE_EXIT_CODE)


def _entry(name: str, command: Command) -> str:
    """Return a command with what its module says first of itself."""
    first = command.about.partition("\n\n")[0]
    return textwrap.fill(first, 88, initial_indent=f"  {name:<12} ", subsequent_indent=" " * 15)


if __name__ == "__main__":
    main()
