"""A shard whose processes keep dying is given up: Ray Data itself would start them again for ever."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

from nigaoe.core.errors import DataError

FOLDER = "attempts"


@contextmanager
def attempt(folder: Path, name: str, most: int) -> Iterator[None]:
    """Leave a note while a process works on something; whoever dies cannot take its own away. `most`: -1, no limit.

    Raises:
        DataError: More than `most` have died over it, or the folder is not to be written to.
    """
    notes = folder / FOLDER
    died = len(list(notes.glob(f"{name}.*")))
    if 0 <= most < died:
        raise DataError(
            f"{died} processes died one after the other over {name!r}, which may want more memory than there is; "
            f"lower data.shard_rows or raise cluster.max_failures"
        )
    note = notes / f"{name}.{uuid4().hex[:8]}"
    try:
        notes.mkdir(exist_ok=True)
        note.touch()
    except OSError as error:
        raise DataError(f"folder {str(folder)!r} cannot be written to ({error.strerror}); see to it") from None
    try:
        yield
    finally:
        note.unlink(missing_ok=True)


def forget_attempts(folder: Path) -> None:
    """Take away what an earlier job, or the one that has ended, has left."""
    shutil.rmtree(folder / FOLDER, ignore_errors=True)
