"""The Makefile: what it lists, and what it says where an environment cannot be set up."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
INSTALL = ROOT / "requirements" / "install.py"


def make(*words, folder=ROOT):
    env = {name: text for name, text in os.environ.items() if not name.startswith("MAKE")}
    return subprocess.run(
        ["/usr/bin/env", "make", *words],
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def checkout(tmp_path):
    """A folder in which nothing is installed yet."""
    for name in ("Makefile", "requirements", "pyproject.toml", "scripts"):
        (tmp_path / name).symlink_to(ROOT / name)
    return tmp_path


def test_it_lists_its_targets_by_itself():
    answer = make()
    assert answer.stdout == make("help").stdout
    listed = re.findall(r"^  ([a-z-]+) ", answer.stdout, re.MULTILINE)
    [named] = re.findall(r"^\.PHONY: (.*)$", (ROOT / "Makefile").read_text(), re.MULTILINE)
    assert listed == named.split()
    assert max(map(len, answer.stdout.splitlines())) < 100


@pytest.mark.parametrize(
    ("python", "said"),
    [
        ("echo Python 3.9; :", "is Python 3.9"),
        ("echo without venv; :", "is without venv"),
        ("nowhere/python3", "is not there, or very old"),
    ],
)
def test_a_python_that_cannot_be_used_is_told_in_one_line(checkout, python, said):
    answer = make("run", f"PYTHON={python}", folder=checkout)
    assert (answer.returncode, answer.stdout) == (2, "")
    assert answer.stderr.count("\n") == 1
    assert f"{said}, and Python 3.11 or later is needed" in answer.stderr
    assert not (checkout / ".venv").exists()


def install(folder, what, *words):
    clean = {name: text for name, text in os.environ.items() if not name.startswith("PIP_")}
    return subprocess.Popen(
        [sys.executable, INSTALL, ".venv", what, *words],
        cwd=folder,
        env={**clean, "PIP_CONFIG_FILE": os.devnull, "PIP_INDEX_URL": "http://127.0.0.1:9/simple"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_without_a_network_one_line_says_so_and_the_next_time_goes_on(tmp_path):
    """And of two at once one waits."""
    failed = install(tmp_path, "it", "pymongo")
    out, err = failed.communicate()
    assert failed.returncode == 1
    assert out.splitlines()[1:] == ["installing it"]
    assert err.startswith("error: it cannot be installed: the package index cannot be reached")
    assert err.count("\n") == 1
    assert (
        "ERROR: No matching distribution found for pymongo"
        in (tmp_path / ".venv" / "pip.log").read_text()
    )
    (tmp_path / "nothing.txt").touch()
    done = [install(tmp_path, "nothing", "-r", "nothing.txt") for _ in range(2)]
    said = [each.communicate() for each in done]
    assert [each.returncode for each in done] == [0, 0], said
    assert [err for _, err in said] == ["", ""]
    assert all("installing nothing\n" in out for out, _ in said)
