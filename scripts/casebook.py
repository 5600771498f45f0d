"""Casebook's command lines, by one name: `casebook COMMAND ...`, and `casebook COMMAND --help`.

Each is the module of `scripts` that has its name, and `python -m scripts.<name>` does the same.
"""

import runpy
import sys
from importlib.util import find_spec

from scripts.console import fail

_USAGE_EXIT_CODE = 2
_GROUPS = {
    "Run": {
        "serve": "serve the API; project, keep time and send to webhooks in the same process",
        "project": "keep views and checkpoints current in a process of its own",
        "timekeeper": "do what is due in a process of its own",
    },
    "Look after": {
        "keys": "make, list and revoke API keys",
        "persons": "show what is held on a person, erase one, change the master key",
        "replay": "build the views anew from the log; --verify compares them with it",
        "documents": "name stored documents that this version cannot read",
        "mongo-users": "make the database's users on MongoDB",
    },
    "Keep and prove": {
        "backup": "back up all that is worth keeping",
        "restore": "bring a backup, or an exported log, into an empty database",
        "export": "write the log to a file",
        "checkpoint": "sign a checkpoint of the log",
        "verify": "check every hash, every chain and every checkpoint",
    },
    "Try": {
        "demo": "load a small part of a real incident log",
        "import": "import a real ticket log",
    },
    "Print": {
        "lifecycle": "the diagram of a ticket's states",
        "openapi": "the API's OpenAPI document",
        "problems": "the page of all problems",
    },
    "In a checkout": {
        "soak": "put the promises of log and views under stress",
        "bench": "measure",
        "screenshots": "take the pictures of the console",
    },
}
_IN_A_CHECKOUT = "In a checkout"
_MODULES = {
    "import": "import_log",
    "mongo-users": "mongo_users",
    "screenshots": "testbed.screenshots",
}
"""Of commands that are not named as their modules are."""


def commands() -> dict[str, dict[str, str]]:
    """Return the commands that are installed here, by group: what each does."""
    is_checkout = find_spec("scripts.soak") is not None
    return {name: each for name, each in _GROUPS.items() if is_checkout or name != _IN_A_CHECKOUT}


def main() -> None:
    """Run the command that is named first, with the words that follow."""
    available = commands()
    names = {name for group in available.values() for name in group}
    match sys.argv[1:]:
        case [name, *words] if name in names:
            sys.argv[1:] = words
            runpy.run_module(
                f"scripts.{_MODULES.get(name, name)}", run_name="__main__", alter_sys=True
            )
        case [] | ["help" | "-h" | "--help"]:
            print(_page(available))
        case [name, *_]:
            fail(f"there is no command {name}: casebook --help lists them")
            sys.exit(_USAGE_EXIT_CODE)


def _page(available: dict[str, dict[str, str]]) -> str:
    lines = ["usage: casebook COMMAND ...    (casebook COMMAND --help: its options)"]
    for group, described in available.items():
        lines += ["", f"{group}:", *(f"  {name:<12} {what}" for name, what in described.items())]
    return "\n".join(lines)


if __name__ == "__main__":
    main()
