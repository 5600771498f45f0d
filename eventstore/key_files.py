"""Files that hold keys: made once, whole, readable by few, and never overwritten."""

import os
import re
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path

from domain.errors import CasebookError


class KeyUnusable(CasebookError):
    """A key cannot be used: for example of a file that holds something else."""

    def __init__(self, detail: str, code: str = "key_unusable") -> None:
        super().__init__(code, detail)


def private_folder(path: Path) -> None:
    """Make a folder that only its owner can enter, unless it is there. Raises OSError."""
    path.mkdir(mode=0o700, parents=True, exist_ok=True)


def place(path: Path, content: bytes, mode: int = 0o600) -> bool:
    """Put a file in its place whole; return False, having done nothing, if there is one already.

    Raises OSError.
    """
    private_folder(path.parent)
    temporary = _written_beside(path, content, mode)
    try:
        os.link(temporary, path)
    except FileExistsError:
        return False
    finally:
        with suppress(OSError):  # what went wrong before it is what counts
            temporary.unlink()
    _sync_folder(path)
    return True


def overwrite(path: Path, content: bytes) -> None:
    """Put new content in a file's place whole and durably. Not for keys. Raises OSError."""
    temporary = _written_beside(path, content)
    try:
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path)


def _written_beside(path: Path, content: bytes, mode: int = 0o600) -> Path:
    """Write a file of a name of its own in the same folder, durably. Raises OSError."""
    # Not by the process's id: in containers that share a volume it may be the same.
    descriptor, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            os.fchmod(file.fileno(), mode)
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the file's name may be lost with the power
    finally:
        os.close(folder)


def names_for(path: Path, database: str) -> Iterator[Path]:
    """Yield names for a file of a database: `path`, then others, for where that is another's."""
    yield path
    named = path.with_name(f"{path.name}-{re.sub(r'[^A-Za-z0-9_-]', '_', database)}")
    yield named
    for number in count(2):
        yield named.with_name(f"{named.name}-{number}")
