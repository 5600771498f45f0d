"""Where the tests may write: one folder, which is gone afterwards; and the proof that they did.

Every temporary file of the tests, and of all the processes that they start, is in a folder made
for this run (TMPDIR): pytest's, those of soaks, a browser's profiles. What is left of it at the end
goes with it, and so does what a run has left behind that was killed. The checkout's `data/`, which
may be somebody's installation, is looked at before and after: a run that has changed it fails,
whatever its tests say.
"""

import hashlib
import os
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import pytest

DATA = Path(__file__).parent.parent / "data"
_PREFIX = "casebook-tests-"
_OWN = "CASEBOOK_TESTS_FOLDER"
_WAIT_SECONDS = 60  # for servers that still write their last checkpoint
_RUNNING = ("database/", "database.")  # what a running installation itself changes
_before = pytest.StashKey[dict[str, str]]()


def snapshot(folder: Path) -> dict[str, str]:
    """Return what is in a folder: of each path its kind, mode, time of change and content."""
    return dict(_seen(folder, path) for path in (folder, *sorted(folder.rglob("*"))))


def _seen(folder: Path, path: Path) -> tuple[str, str]:
    name = path.relative_to(folder).as_posix()
    if name.startswith(_RUNNING) or name in ("database", "."):
        # Only that it is there: who runs Casebook from here may do so meanwhile.
        return name, "there" if path.exists() else "not there"
    state = path.lstat()
    content = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else ""
    return name, f"{state.st_mode:o} {state.st_mtime_ns} {content}"


def pytest_configure(config: pytest.Config) -> None:
    """Begin, in the process that starts the others: they find it in their environment."""
    if hasattr(config, "workerinput"):
        return
    config.stash[_before] = snapshot(DATA)
    system = Path(tempfile.gettempdir())
    for left in system.glob(f"{_PREFIX}*"):
        with suppress(ValueError, OSError):
            if not _is_running(int(left.name.removeprefix(_PREFIX).partition("-")[0])):
                shutil.rmtree(left, ignore_errors=True)
    own = tempfile.mkdtemp(prefix=f"{_PREFIX}{os.getpid()}-")
    os.environ[_OWN] = os.environ["TMPDIR"] = tempfile.tempdir = own
    # What says nothing else goes here, and not into the checkout.
    os.environ["CASEBOOK_DATA_DIR"] = os.path.join(own, "data")  # noqa: PTH118
    os.environ["HYPOTHESIS_STORAGE_DIRECTORY"] = os.path.join(own, "hypothesis")  # noqa: PTH118


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Fail a run that has changed the checkout's data."""
    before = session.config.stash.get(_before, None)
    if before is None:
        return
    after = snapshot(DATA)
    changed = sorted(n for n in before.keys() | after.keys() if before.get(n) != after.get(n))
    if changed:
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
        reporter = session.config.pluginmanager.get_plugin("terminalreporter")
        if reporter is not None:
            reporter.write_line(f"the tests have changed {DATA}: {', '.join(changed)}", red=True)


def pytest_unconfigure(config: pytest.Config) -> None:
    """Leave nothing behind. Raises OSError if something still writes there after a minute."""
    own = os.environ.get(_OWN)
    if own is None or config.stash.get(_before, None) is None:
        return
    del os.environ[_OWN]
    until = time.monotonic() + _WAIT_SECONDS
    while os.path.exists(own):  # noqa: PTH110
        shutil.rmtree(own, ignore_errors=time.monotonic() < until)
        if os.path.exists(own):  # noqa: PTH110
            time.sleep(0.1)


def _is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True
