"""Safetensors files that are written whole and read row by row: nothing is mapped, nothing but the row is read."""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import uuid4

import numpy as np
from safetensors.numpy import save

from nigaoe.core.errors import DataError

_TYPES = {"F16": np.float16, "F32": np.float32, "U8": np.uint8, "I32": np.int32, "I64": np.int64}


class RowFile:
    """Columns of a file, of which single rows are read.

    Read calls instead of memory maps: a file that is cut or a storage that goes away is then an error of the row that
    was asked for, where a map would end the process with SIGBUS. Any thread may read.
    """

    def __init__(self, path: Path) -> None:
        """Read the header.

        Raises:
            DataError: Missing or damaged; so is a file that was written in part.
        """
        self._path, self._handle = path, -1
        try:
            self._handle = os.open(path, os.O_RDONLY)
            length = os.fstat(self._handle).st_size
            start = 8 + int.from_bytes(os.pread(self._handle, 8, 0), "little")
            if start > length:
                raise ValueError("it is cut in its header")
            header: dict[str, Any] = json.loads(os.pread(self._handle, start - 8, 8))
            header.pop("__metadata__", None)
            self._columns = {
                name: (np.dtype(_TYPES[entry["dtype"]]), tuple(entry["shape"]), start + entry["data_offsets"][0])
                for name, entry in header.items()
            }
            if length != start + max(entry["data_offsets"][1] for entry in header.values()):
                raise ValueError("it is not as long as its header says")
        except OSError as error:
            raise _damaged(path, error.strerror or "it cannot be opened") from None
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            is_ours = str(error).startswith("it is")
            raise _damaged(path, str(error) if is_ours else "its header makes no sense") from None

    def __del__(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)

    def shape(self, name: str) -> tuple[int, ...]:
        """Of a column."""
        return self._column(name)[1]

    def dtype(self, name: str) -> np.dtype:
        """Of a column."""
        return self._column(name)[0]

    def read(self, name: str, *index: int, out: np.ndarray | None = None) -> np.ndarray:
        """What a column [N, ...] has at an index; into `out`, contiguous, where that is given.

        Raises:
            DataError: The file is shorter than it was or another one, or its storage does not answer.
        """
        dtype, shape, offset = self._column(name)
        if out is None:
            out = np.empty(shape[len(index) :], dtype)
        if out.dtype != dtype or out.shape != shape[len(index) :]:
            raise _damaged(self._path, f"column {name!r} has rows of {dtype} {list(shape[len(index) :])}")
        position = 0
        for at, length in zip(index, shape, strict=False):
            if not 0 <= at < length:
                raise _damaged(self._path, f"column {name!r} of shape {list(shape)} has no row {list(index)}")
            position = position * length + at
        self._fill(out, offset + position * out.nbytes)
        return out

    def read_many(self, name: str, rows: np.ndarray) -> np.ndarray:
        """What a column [N] has at some rows."""
        dtype, _, offset = self._column(name)
        out = np.empty(len(rows), dtype)
        for i, row in enumerate(rows.tolist()):
            self._fill(out[i : i + 1], offset + row * dtype.itemsize)
        return out

    def _column(self, name: str) -> tuple[np.dtype, tuple[int, ...], int]:
        """Type, shape and place."""
        if name not in self._columns:
            raise _damaged(self._path, f"it has no column {name!r}")
        return self._columns[name]

    def _fill(self, out: np.ndarray, offset: int) -> None:
        buffer, done = memoryview(out.reshape(-1).view(np.uint8).data), 0
        while done < len(buffer):
            try:
                count = os.preadv(self._handle, [buffer[done:]], offset + done)
            except OSError as error:
                raise _damaged(self._path, error.strerror or "it cannot be read") from None
            if not count:
                raise _damaged(self._path, "it ends too early")
            done += count


def write_row_file(columns: Mapping[str, np.ndarray], path: Path) -> None:
    """Write columns, whole or not at all, whoever else writes the same file at the same time.

    Raises:
        DataError: The folder is gone, full or not to be written to.
    """
    part = path.with_name(f"{path.name}.{uuid4().hex[:8]}.part")
    content = save({name: np.ascontiguousarray(column) for name, column in columns.items()})
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            # Or a power cut could leave the name with nothing behind it.
            os.fsync(file.fileno())
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        # Somebody may have finished the same file and tidied up.
        if not path.is_file():
            raise DataError(
                f"prepared file {str(path)!r} cannot be written ({error.strerror}); see to its folder"
            ) from None


def is_whole(path: Path) -> bool:
    """Whether a file is there and as long as it says."""
    try:
        RowFile(path)
    except DataError:
        return False
    return True


def _damaged(path: Path, reason: str) -> DataError:
    return DataError(f"prepared file {str(path)!r} is gone or damaged ({reason}); run `nigaoe prepare` again")
