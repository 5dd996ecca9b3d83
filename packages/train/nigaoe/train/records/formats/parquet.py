"""Parquet: pictures inside, as Hugging Face writes them or as plain bytes, or their names."""

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Literal

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.core.storage import FileStat
from nigaoe.train.config import DataConfig
from nigaoe.train.records.formats.tables import key_prefix
from nigaoe.train.records.names import PictureNames
from nigaoe.train.records.parquet_files import has_bytes, open_parquet
from nigaoe.train.records.record import Picture
from nigaoe.train.records.rows import Columns, Listing, Row, choose_columns
from nigaoe.train.records.sources import Source

THREADS = 8
"""Files are listed so many at a time, for what takes the time is waiting for their storage."""
GROUPS = 64
"""Row groups whose texts are read at once."""
Kept = Literal["inside", "named", "named in path"]


def read_parquet(source: Source, data: DataConfig) -> Listing:
    """All rows of a source of this kind; no picture is read.

    Raises:
        DataError: A file is damaged, or lacks a column.
    """
    listing = Listing()
    with ThreadPoolExecutor(THREADS) as pool:
        for rows in pool.map(lambda file: read_parquet_file(file, data), source.files):
            listing.extend(rows)
    return listing


def read_parquet_file(file: FileStat, data: DataConfig) -> Listing:
    """Rows of one file; names in it are relative to its own folder unless `data.image_root` says otherwise.

    Raises:
        DataError: It is damaged, or lacks a column.
    """
    listing = Listing()
    names = PictureNames(data.image_root or storage.folder_of(file.uri))
    with open_parquet(file.uri) as parquet:
        schema = parquet.schema_arrow
        columns = choose_columns(
            file.uri, schema.names, data, [name for name in schema.names if _holds_text(schema.field(name).type)]
        )
        kept = {name: _kept(parquet, file, name) for name in (columns.image, columns.condition) if name is not None}
        for row in _rows(parquet, file, columns, kept, key_prefix(file, data)):
            listing.add(row, columns, names)
    return listing


def _rows(parquet: Any, file: FileStat, columns: Columns, kept: dict[str, Kept], above: str) -> Iterator[Row]:
    texts = [*columns.captions, *([columns.identity] if columns.identity else [])]
    wanted = [*texts, *(f"{name}.path" if how == "named in path" else name for name, how in kept.items())]
    wanted = [name for name in wanted if kept.get(name) != "inside"]
    number = 0
    for start in range(0, parquet.num_row_groups, GROUPS):
        groups = range(start, min(start + GROUPS, parquet.num_row_groups))
        table = parquet.read_row_groups(groups, columns=wanted)
        lists = {name: table.column(name).to_pylist() for name in table.column_names}
        for at in range(sum(parquet.metadata.row_group(group).num_rows for group in groups)):
            values = {name: cells[at] for name, cells in lists.items()}
            for name, how in kept.items():
                if how == "inside":
                    values[name] = Picture(file.uri, start=number, column=name)
                elif how == "named in path":
                    values[name] = (values[name] or {}).get("path")
            named = values[columns.image]
            # Paths beside the bytes may repeat, for nothing reads them.
            key = f"{file.name}/{number}" if isinstance(named, Picture) else above and named and f"{above}{named}"
            yield Row(f"row {number} (from 0) of {file.uri!r}", values, key or None)
            number += 1


def _kept(parquet: Any, file: FileStat, column: str) -> Kept:
    """How a column keeps its pictures."""
    from pyarrow import types

    type_ = parquet.schema_arrow.field(column).type
    if types.is_binary(type_) or types.is_large_binary(type_):
        return "inside"
    if has_bytes(type_):
        has_path = type_.get_field_index("path") >= 0
        return "named in path" if has_path and _is_empty(parquet, f"{column}.bytes") else "inside"
    if _holds_text(type_) and not types.is_list(type_):
        return "named"
    raise DataError(
        f"column {column!r} of {file.uri!r} holds {type_}, neither pictures nor their names; "
        f"name another one of {', '.join(parquet.schema_arrow.names)}"
    )


def _is_empty(parquet: Any, path: str) -> bool:
    """Whether a column holds nothing, as its statistics tell."""
    metadata = parquet.metadata
    paths = [metadata.schema.column(index).path for index in range(len(metadata.schema))]
    for group in range(metadata.num_row_groups):
        chunk = metadata.row_group(group).column(paths.index(path))
        statistics = chunk.statistics
        if statistics is None or not statistics.has_null_count or statistics.null_count < chunk.num_values:
            return False
    return bool(metadata.num_row_groups)


def _holds_text(type_: Any) -> bool:
    from pyarrow import types

    if types.is_list(type_) or types.is_large_list(type_):
        type_ = type_.value_type
    if types.is_dictionary(type_):
        type_ = type_.value_type
    return bool(types.is_string(type_) or types.is_large_string(type_))
