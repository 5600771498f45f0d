"""`casebook`: one command in front of all command lines."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from scripts import casebook
from tests.processes import environment, script

ROOT = Path(__file__).parents[2]
SCRIPTS = ROOT / "scripts"
NAMES = [name for group in casebook.commands().values() for name in group]


def modules():
    """The modules of scripts/ that can be run: those with a main of their own."""
    found = {path for path in SCRIPTS.glob("*.py") if "__main__" in path.read_text()}
    found |= {path.parent for path in SCRIPTS.glob("*/__main__.py")}
    found |= {path for path in SCRIPTS.glob("testbed/*.py") if "__main__" in path.read_text()}
    return {".".join(path.relative_to(SCRIPTS).with_suffix("").parts) for path in found}


def run(*words):
    return subprocess.run(
        [sys.executable, "-m", "scripts.casebook", *words],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
    )


def test_each_command_line_is_a_command():
    named = {casebook._MODULES.get(name, name) for name in NAMES}
    assert named == modules() - {"casebook"}
    assert len(NAMES) == len(set(NAMES))


def test_help_is_one_page_with_all_commands():
    answer = run("--help")
    assert answer.returncode == 0
    assert set(re.findall(r"^  ([a-z-]+)", answer.stdout, re.MULTILINE)) == set(NAMES)
    assert len(answer.stdout.splitlines()) < 60
    assert max(map(len, answer.stdout.splitlines())) < 90


@pytest.mark.parametrize("name", NAMES)
async def test_a_command_takes_the_words_behind_it(name):
    """What it is asked for help with it does not do."""
    asked = await script("scripts.casebook", name, "--help", env=dict(os.environ))
    out, err = await asked.communicate()
    assert asked.returncode == 0, err
    assert out.decode().startswith(f"usage: casebook {name} ")


@pytest.mark.parametrize("name", NAMES)
async def test_a_command_refuses_words_that_it_does_not_know(name, tmp_path):
    asked = await script("scripts.casebook", name, "--nonsense", env=environment(tmp_path))
    out, err = await asked.communicate()
    assert (asked.returncode, out) == (2, b"")
    assert b"usage: " in err


def test_a_command_that_is_not_there_is_a_mistake():
    answer = run("nope")
    assert (answer.returncode, answer.stdout) == (2, "")
    assert "no command nope" in answer.stderr


def test_where_it_is_installed_soak_and_bench_are_no_commands(monkeypatch):
    """What only a checkout has is left out of a wheel."""
    monkeypatch.setattr(casebook, "find_spec", lambda _: None)
    assert not {"soak", "bench"} & {n for group in casebook.commands().values() for n in group}
