"""The tests themselves: they write nowhere but in a folder of their own, which is gone afterwards.

What is looked at before and after a whole run is tried here with small runs of pytest.
"""

import os
import shutil
import sys
from pathlib import Path
from subprocess import run

import pytest

from tests.scratch import snapshot

ROOT = Path(__file__).parent.parent
CONFTEST = """
from pathlib import Path
from tests import scratch
scratch.DATA = Path("data").absolute()
from tests.scratch import pytest_configure, pytest_sessionfinish, pytest_unconfigure
"""


def ran(folder: Path, test: str, *words: str):
    """Run one test in a project of its own, beside somebody's data."""
    (folder / "data" / "database").mkdir(parents=True)
    (folder / "data" / "admin-key").write_text("the only one\n")
    (folder / "temporary").mkdir(exist_ok=True)
    (folder / "conftest.py").write_text(CONFTEST)
    (folder / "test_it.py").write_text(test)
    clean = {k: v for k, v in os.environ.items() if not k.startswith("CASEBOOK_")}
    env = {**clean, "PYTHONPATH": str(ROOT), "TMPDIR": str(folder / "temporary")}
    pytest_ = (sys.executable, "-m", "pytest", "-c", os.devnull, "--rootdir", ".", *words)
    return run(  # noqa: PLW1510 the code is looked at
        (*pytest_, "-p", "no:cacheprovider", "test_it.py"),
        cwd=folder,
        env=env,
        capture_output=True,
        text=True,
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda key: key.write_text("another"),
        lambda key: key.write_text("the only one\n"),
        lambda key: key.with_name("demo-key").touch(),
        lambda key: key.unlink(),
        lambda key: key.chmod(0o600),
        lambda key: shutil.rmtree(key.parent),
    ],
    ids=["changed", "written again", "another file", "removed", "its mode", "all removed"],
)
def test_whatever_is_done_to_a_folder_is_seen(tmp_path, change):
    key = tmp_path / "data" / "admin-key"
    key.parent.mkdir()
    key.write_text("the only one\n")
    before = snapshot(key.parent)
    assert snapshot(key.parent) == before
    change(key)
    assert snapshot(key.parent) != before


@pytest.mark.parametrize("words", [(), ("-n", "2")], ids=["one_process", "several"])
def test_a_run_that_touches_the_data_of_the_checkout_fails(tmp_path, words):
    told = ran(tmp_path, "def test_it():\n    open('data/demo-key', 'w')\n", *words)
    assert told.returncode == 1, told
    assert "1 passed" in told.stdout
    assert f"the tests have changed {tmp_path / 'data'}: " in told.stdout


def test_a_run_leaves_nothing_in_the_systems_temporary_folder(tmp_path):
    """Nor does it leave what a run has left that was killed; what is another's stays."""
    test = """
import os, subprocess, sys, tempfile
def test_it(tmp_path):
    (tmp_path / "x").touch()
    tempfile.mkdtemp()
    subprocess.run([sys.executable, "-c", "import tempfile; tempfile.mkdtemp()"], check=True)
    assert "CASEBOOK_DATA_DIR" in os.environ
"""
    of_the_dead, of_one_that_runs = "casebook-tests-999999999-x", f"casebook-tests-{os.getpid()}-x"
    for name in (of_the_dead, of_one_that_runs, "anothers"):
        (tmp_path / "temporary" / name).mkdir(parents=True)
    told = ran(tmp_path, test)
    assert told.returncode == 0, told
    left = {path.name for path in (tmp_path / "temporary").iterdir()}
    assert left == {of_one_that_runs, "anothers"}


def test_this_run_writes_into_a_folder_of_its_own(tmp_path):
    own = Path(os.environ["CASEBOOK_TESTS_FOLDER"])
    assert Path(os.environ["CASEBOOK_DATA_DIR"]).is_relative_to(own)
    assert os.environ["TMPDIR"] == str(own)
