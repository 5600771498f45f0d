"""Set up an environment, for the Makefile: with its progress in a line, and its failure, too.

    python3 requirements/install.py VENV WHAT PIP-ARGUMENT...

VENV is made if it is not there. WHAT is said to be installed. One at a time: another waits. pip
fetches all before it installs any, so where it fails there is nothing half made; what it says is in
VENV/pip.log.
"""

import fcntl
import os
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

_UNREACHABLE = re.compile("connection broken|Could not fetch URL|Name or service not known")
_STEP = re.compile(r"(Collecting|Installing collected packages)\b:?\s*([\w.-]*)")


def main() -> int:
    venv, what, *arguments = sys.argv[1:]
    python = Path(venv) / "bin" / "python"
    log = Path(venv) / "pip.log"
    folder = os.open(Path(__file__).parent, os.O_RDONLY)
    try:
        fcntl.flock(folder, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        print("waiting for another make that is installing", flush=True)
        fcntl.flock(folder, fcntl.LOCK_EX)
    if not python.with_name("pip").exists():
        print(f"making {venv}, for Python {sys.version_info[0]}.{sys.version_info[1]}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", venv], check=True)
    words = ["--disable-pip-version-check", "--progress-bar=off", "--retries=2"]
    pip = subprocess.Popen(
        [python, "-m", "pip", "install", *words, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    said = _show(what, pip.stdout or ())
    if pip.wait() == 0:
        return 0
    log.write_text("".join(said))
    errors = [line for line in said if line.startswith("ERROR: ")] or said[-1:]
    why = errors[0].removeprefix("ERROR: ").strip() if errors else "pip says nothing"
    if any(map(_UNREACHABLE.search, said)):
        why = "the package index cannot be reached: is there a network, or a proxy to be named?"
    print(f"error: {what} cannot be installed: {why} (all of it: {log})", file=sys.stderr)
    return 1


def _show(what: str, lines: Iterable[str]) -> list[str]:
    """Show what pip does in one line, which changes at a terminal; return all that pip says."""
    said = []
    is_terminal = sys.stdout.isatty()
    count = 0
    print(f"installing {what}", end="" if is_terminal else "\n", flush=True)
    for line in lines:
        said.append(line)
        step = _STEP.match(line)
        if step is not None:
            count += step[1] == "Collecting"
            now = f"{count}, {step[2]}" if step[1] == "Collecting" else "unpacking"
            if is_terminal:
                print(f"\r\x1b[Kinstalling {what}: {now}", end="", flush=True)
    if is_terminal:
        print()
    return said


if __name__ == "__main__":
    sys.exit(main())
