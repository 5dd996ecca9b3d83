"""Parquet files: opened anywhere, and pictures of them by row."""

from bisect import bisect_right
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from itertools import accumulate
from typing import Any

from nigaoe.core import storage
from nigaoe.core.errors import DataError, ImageError
from nigaoe.core.stores import in_a_sentence, locate
from nigaoe.train.records.record import Picture

CACHED_GROUPS = 2
"""Row groups of pictures kept per process; one is some hundred pictures as Hugging Face writes them."""


@contextmanager
def open_parquet(uri: str) -> Iterator[Any]:
    """A `pyarrow.parquet.ParquetFile`.

    Raises:
        DataError: Missing, no Parquet file, or cut off.
    """
    # Here, so that whoever reads local files only does not load Arrow.
    from pyarrow import ArrowException, OSFile
    from pyarrow.parquet import ParquetFile

    location = locate(uri)
    with in_a_sentence(location, "read"):
        file = storage.open_file(uri) if location.store else OSFile(location.path)
    with file:
        try:
            # What several row groups need of a bucket is asked for at once.
            with ParquetFile(file, pre_buffer=bool(location.store)) as parquet:
                yield parquet
        except ArrowException as error:
            raise _damaged(uri, error) from None
        except OSError as error:
            # What is wrong with the content has no words of a store or a disk in it.
            if error.errno is None and "AWS Error" not in str(error) and "google::cloud" not in str(error):
                raise _damaged(uri, error) from None
            with in_a_sentence(location, "read"):
                raise


def _damaged(uri: str, error: Exception) -> DataError:
    cause = (str(error).splitlines() or [type(error).__name__])[0][:160].rstrip(" .")
    return DataError(f"Parquet file {uri!r} is damaged or cut off ({cause}); replace it")


def parquet_bytes(picture: Picture) -> bytes:
    """A picture that a Parquet file holds.

    Raises:
        DataError: The file is missing or damaged.
        ImageError: The row holds no picture.
    """
    if picture.start is None or picture.column is None:
        raise ValueError(f"{picture} says no row and column")
    starts = _group_starts(picture.uri)
    group = bisect_right(starts, picture.start) - 1
    if picture.start >= starts[-1]:
        raise ImageError(f"{picture.name!r} does not exist; list the dataset again, for the file has changed")
    value = _group(picture.uri, picture.column, group)[picture.start - starts[group]].as_py()
    content = value["bytes"] if isinstance(value, dict) else value
    if not content:
        raise ImageError(f"{picture.name!r} holds no picture in {picture.column!r}; remove the row")
    return bytes(content)


@lru_cache(maxsize=256)
def _group_starts(uri: str) -> list[int]:
    """Rows before each group, and before the end."""
    with open_parquet(uri) as parquet:
        counts = [parquet.metadata.row_group(group).num_rows for group in range(parquet.num_row_groups)]
    return list(accumulate(counts, initial=0))


@lru_cache(maxsize=CACHED_GROUPS)
def _group(uri: str, column: str, group: int) -> Any:
    with open_parquet(uri) as parquet:
        wanted = f"{column}.bytes" if has_bytes(parquet.schema_arrow.field(column).type) else column
        return parquet.read_row_group(group, columns=[wanted]).column(0)


def has_bytes(type_: Any) -> bool:
    """Whether a column is Hugging Face's `{bytes, path}`."""
    from pyarrow.types import is_struct

    return bool(is_struct(type_)) and type_.get_field_index("bytes") >= 0
