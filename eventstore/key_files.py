"""Files that hold keys: made once, whole, and readable by few."""

import os
import tempfile
from contextlib import suppress
from pathlib import Path

from domain.errors import CasebookError


class KeyUnusable(CasebookError):
    """A key cannot be used: for example of a file that holds something else."""

    def __init__(self, detail: str, code: str = "key_unusable") -> None:
        super().__init__(code, detail)


def place(path: Path, content: bytes, mode: int = 0o600) -> None:
    """Put a file in its place whole, unless another process has put one there first.

    Raises OSError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)  # what another has left has another's mode
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW
    descriptor = os.open(temporary, flags, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    with suppress(FileExistsError):
        os.link(temporary, path)
    temporary.unlink()
    _sync_folder(path)


def overwrite(path: Path, content: bytes) -> None:
    """Put new content in a file's place whole and durably. Not for keys. Raises OSError."""
    # Not by the process's id alone: in containers that share a volume it may be the same.
    descriptor, temporary = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).replace(path)
    except OSError:
        Path(temporary).unlink(missing_ok=True)
        raise
    _sync_folder(path)


def _sync_folder(path: Path) -> None:
    folder = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(folder)  # or the file's name may be lost with the power
    finally:
        os.close(folder)
