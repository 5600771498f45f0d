"""Print the diagram of docs/lifecycle.md, made from the moves of the commands."""

from domain.tickets.command import lifecycle


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


if __name__ == "__main__":
    print(diagram())
