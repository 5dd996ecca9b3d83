"""Files of text that list pictures, one row each: JSON, JSON Lines, CSV."""

import posixpath
from collections.abc import Callable
from dataclasses import replace

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.core.storage import FileStat
from nigaoe.train.config import DataConfig, Format
from nigaoe.train.records.formats import csv_table, json_lines, json_list
from nigaoe.train.records.names import PictureNames
from nigaoe.train.records.rows import Listing, Row, choose_columns
from nigaoe.train.records.sources import Source

PARSERS: dict[Format, Callable[[str, str], list[Row]]] = {
    "json": json_list.parse,
    "jsonl": json_lines.parse,
    "csv": csv_table.parse,
}


def read_tables(source: Source, data: DataConfig) -> Listing:
    """All rows of a source of this kind.

    Raises:
        DataError: A file is malformed, or lacks a column.
    """
    listing = Listing()
    for file in source.files:
        listing.extend(read_table(file, source.format, data))
    return listing


def read_table(file: FileStat, form: Format, data: DataConfig) -> Listing:
    """Rows of one file; its names are relative to its own folder unless `data.image_root` says otherwise.

    Raises:
        DataError: It is malformed, or lacks a column.
    """
    rows = PARSERS[form](_text(file), file.uri)
    listing = Listing()
    if not rows:
        return listing
    columns = choose_columns(file.uri, list(dict.fromkeys(key for row in rows for key in row.values)), data)
    names = PictureNames(data.image_root or storage.folder_of(file.uri))
    above = key_prefix(file, data)
    for row in rows:
        name = row.values.get(columns.image)
        listing.add(replace(row, key=f"{above}{name}") if above and name else row, columns, names)
    return listing


def key_prefix(file: FileStat, data: DataConfig) -> str:
    """What tells names of one file's folder from those of another's: the folder, below that of the source."""
    folder = posixpath.dirname(file.name)
    return "" if data.image_root or not folder else f"{folder}/"


def _text(file: FileStat) -> str:
    try:
        return storage.read_bytes(file.uri).decode("utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"captions file {file.uri!r} is not UTF-8 text; save it as UTF-8") from None
