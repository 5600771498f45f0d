"""Casebook's command lines, by one name: `casebook COMMAND ...`, and `casebook COMMAND --help`.

Each is the module of `scripts` that has its name, and `python -m scripts.<name>` does the same.
"""

import ast
import runpy
import sys
import textwrap
from importlib.util import find_spec
from pathlib import Path

from scripts.console import fail

_USAGE_EXIT_CODE = 2
_IN_A_CHECKOUT = "In a checkout"
_GROUPS = {
    "Run": ["serve", "project", "timekeeper"],
    "Look after": ["keys", "persons", "replay", "documents", "migrate", "mongo-users"],
    "Keep and prove": ["backup", "restore", "export", "checkpoint", "verify"],
    "Try": ["demo", "import"],
    "Print": ["openapi"],
    _IN_A_CHECKOUT: ["soak", "bench", "screenshots", "reference"],
}
_MODULES = {
    "import": "import_log",
    "mongo-users": "mongo_users",
    "screenshots": "testbed.screenshots",
}
"""Of commands that are not named as their modules are."""


def commands() -> dict[str, list[str]]:
    """Return the commands that are installed here, by group."""
    is_checkout = find_spec("scripts.soak") is not None
    return {name: each for name, each in _GROUPS.items() if is_checkout or name != _IN_A_CHECKOUT}


def main() -> None:
    """Run the command that is named first, with the words that follow."""
    match sys.argv[1:]:
        case [name, *words] if any(name in group for group in commands().values()):
            sys.argv[1:] = words
            runpy.run_module(
                f"scripts.{_MODULES.get(name, name)}", run_name="__main__", alter_sys=True
            )
        case [] | ["help" | "-h" | "--help"]:
            print("usage: casebook COMMAND ...    (casebook COMMAND --help: its options)")
            for group, names in commands().items():
                print(f"\n{group}:", *map(_entry, names), sep="\n")
        case [name, *_]:
            fail(f"there is no command {name}: casebook --help lists them")
            sys.exit(_USAGE_EXIT_CODE)


def _entry(name: str) -> str:
    """Return a command with what its module says first of itself."""
    module = Path(__file__).parent.joinpath(*_MODULES.get(name, name).split("."))
    path = module / "__main__.py" if module.is_dir() else module.with_suffix(".py")
    about = ast.get_docstring(ast.parse(path.read_text())) or ""
    [first, *_] = about.split("\n\n")
    return textwrap.fill(first, 88, initial_indent=f"  {name:<12} ", subsequent_indent=" " * 15)


if __name__ == "__main__":
    main()
