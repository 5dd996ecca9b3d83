"""Captions files as people have them, read into one kind of record."""

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nigaoe.core.errors import DataError


@dataclass(frozen=True)
class Record:
    """A picture, what is said of it, and whose picture it is."""

    image: Path
    captions: tuple[str, ...]
    identity: str
    """Pictures of one person share it; the file name where nobody said."""


def read_records(
    source: Path, image_root: Path | None = None, caption_columns: list[str] | None = None
) -> list[Record]:
    """Read a captions file.

    JSON: `[{"image_file": ..., "text": ...}]`. CSV: `ID` and caption columns. Both may carry `identity`.

    Raises:
        DataError: Missing, malformed, without rows, or without the columns asked for.
    """
    if not source.is_file():
        raise DataError(f"captions file {str(source)!r} does not exist; give a .json or .csv file")
    try:
        text = source.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError:
        raise DataError(f"captions file {str(source)!r} is not UTF-8 text; save it as UTF-8") from None
    if source.suffix == ".json":
        rows, file_key, columns = _json_rows(source, text), "image_file", caption_columns or ["text"]
    elif source.suffix == ".csv":
        rows, file_key = _csv_rows(source, text), "ID"
        columns = caption_columns or [key for key in (rows[0] if rows else {}) if key.startswith("caption")]
    else:
        raise DataError(f"captions file {str(source)!r} is neither .json nor .csv; convert it to one of them")
    if not rows:
        raise DataError(f"captions file {str(source)!r} holds no rows; nothing can be trained on it")
    _require_columns(source, rows[0], [file_key, *columns])
    if not columns:
        raise DataError(
            f"captions file {str(source)!r} has no column named caption_*; name yours in data.caption_columns"
        )
    root = image_root or source.parent
    return [_record(source, i, row, file_key, columns, root) for i, row in enumerate(rows)]


def _csv_rows(source: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows: list[dict[str, Any]] = list(csv.DictReader(io.StringIO(text, newline="")))
    except csv.Error as error:
        raise DataError(f"captions file {str(source)!r} is not valid CSV ({error}); mend its quotes") from None
    for number, row in enumerate(rows):
        if None in row:
            raise DataError(
                f"row {number + 1} of {str(source)!r} has more fields than the header; "
                f"put captions that hold commas in quotes"
            )
    return rows


def _json_rows(source: Path, text: str) -> list[dict[str, Any]]:
    try:
        rows = json.loads(text)
    except json.JSONDecodeError as error:
        raise DataError(f"captions file {str(source)!r} is not valid JSON ({error}); mend its syntax") from None
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise DataError(f'captions file {str(source)!r} is not a list like [{{"image_file": ..., "text": ...}}]')
    return rows


def _require_columns(source: Path, row: Mapping[str, Any], wanted: list[str]) -> None:
    missing = [column for column in wanted if column not in row]
    if missing:
        raise DataError(
            f"captions file {str(source)!r} has no column {missing[0]!r}; it has {', '.join(map(str, row))}"
        )


def _record(source: Path, number: int, row: Mapping[str, Any], file_key: str, columns: list[str], root: Path) -> Record:
    captions = tuple(str(row[c]).strip() for c in columns if row.get(c) is not None and str(row[c]).strip())
    if not captions:
        raise DataError(
            f"row {number + 1} of {str(source)!r} has no caption in {', '.join(columns)}; write one or remove the row"
        )
    name = str(row.get(file_key) or "")
    if not name:
        raise DataError(
            f"row {number + 1} of {str(source)!r} names no image in {file_key!r}; name one or remove the row"
        )
    identity = row.get("identity")
    return Record(_image_path(root, name), captions, name if identity in (None, "") else str(identity))


def _image_path(root: Path, name: str) -> Path:
    path = root / name
    if path.is_file():
        return path
    # An ID is often a number whose file carries an extension.
    extensions = (".jpg", ".jpeg", ".png", ".webp", ".JPG", ".JPEG", ".PNG")
    return next((p for ext in extensions if (p := path.with_name(path.name + ext)).is_file()), path)
