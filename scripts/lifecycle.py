"""Print the diagram and the table of docs/reference/lifecycle.md, made from the commands."""

from inspect import getdoc

from domain.tickets import COMMANDS
from domain.tickets.command import lifecycle
from scripts.console import arguments


def diagram() -> str:
    """Return a Mermaid state diagram: one arrow for each way from a state to another."""
    lines = ["stateDiagram-v2", "    [*] --> new : open"]
    for state, ways in lifecycle().items():
        arrows: dict[str, list[str]] = {}
        for verb, targets in ways.items():
            for target in targets:
                arrows.setdefault(target, []).append(verb)
        lines += [
            f"    {state} --> {to} : {', '.join(sorted(by))}" for to, by in sorted(arrows.items())
        ]
    lines.append("    closed --> [*]")
    return "\n".join(lines)


def table() -> str:
    """Return a Markdown table: each command's verb, what it does, who may send it."""
    lines = ["| verb | what it does | who may send it |", "| --- | --- | --- |"]
    for verb, command in COMMANDS.items():
        what = (getdoc(command) or "").partition("\n\n")[0].replace("\n", " ")
        who = ", ".join(sorted(f"{role}s" for role in command.allowed))
        lines.append(f"| `{verb}` | {what} | {who} |")
    return "\n".join(lines)


if __name__ == "__main__":
    arguments(__doc__, "lifecycle").parse_args()
    print(diagram(), table(), sep="\n\n")
