"""Rows of every format, and the records they become."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from nigaoe.core.errors import DataError
from nigaoe.train.config import DataConfig
from nigaoe.train.records.names import PictureNames
from nigaoe.train.records.record import Picture, Record

IMAGE_COLUMNS = ("image_file", "ID", "file_name", "image", "image_file_name")
"""Where the name of the picture is sought when nobody says it: the first of them that is there."""
DEFAULT_IDENTITY = "identity"


@dataclass(frozen=True)
class Row:
    """What a format knows of one row."""

    place: str
    """For messages: `row 3 of 'captions.csv'`."""
    values: Mapping[str, Any]
    """By column; a picture is a name, or a `Picture` where the format keeps pictures itself."""
    key: str | None = None
    """The name of the picture where absent."""


@dataclass(frozen=True)
class Columns:
    """Which of the columns mean what."""

    image: str
    condition: str | None
    captions: tuple[str, ...]
    identity: str | None


@dataclass
class Listing:
    """All rows of a source."""

    records: list[Record] = field(default_factory=list)
    captionless: dict[int, str] = field(default_factory=dict)
    """What is wrong with each record that has no caption, by its place among them."""

    def add(self, row: Row, columns: Columns, names: PictureNames) -> None:
        """Add a row.

        Raises:
            DataError: It has no picture, or something else where a picture or a caption should be.
        """
        record = record_of(row, columns, names)
        if not record.captions:
            self.captionless[len(self.records)] = f"{row.place} has no caption in {', '.join(columns.captions)}"
        self.records.append(record)

    def extend(self, other: "Listing") -> None:
        """Add the rows of another one behind these."""
        start = len(self.records)
        self.captionless |= {start + at: problem for at, problem in other.captionless.items()}
        self.records += other.records

    def with_unique_keys(self) -> "Listing":
        """The second row of a key gets `#2`, the third one `#3`: one picture may be listed for each of its captions."""
        taken: set[str] = {record.key for record in self.records}
        if len(taken) == len(self.records):
            return self
        counts: dict[str, int] = {}
        records = []
        for record in self.records:
            number = counts[record.key] = counts.get(record.key, 0) + 1
            key = record.key
            while number > 1 and (key := f"{record.key}#{number}") in taken:
                number += 1
            taken.add(key)
            counts[record.key] = number
            records.append(record if key == record.key else replace(record, key=key))
        return Listing(records, self.captionless)


def choose_columns(
    source: str, available: Sequence[str], data: DataConfig, caption_columns: Sequence[str] | None = None
) -> Columns:
    """Which columns of a source to read; `caption_columns`: those that can hold captions, all when absent.

    Raises:
        DataError: One is missing; the message lists those that exist.
    """
    captions = data.caption_columns or default_captions(available if caption_columns is None else caption_columns)
    if not captions:
        raise DataError(
            f"{source!r} has no column named text or caption*; it has {_listed(available)}: "
            f"name yours in data.caption_columns"
        )
    image = next((column for column in IMAGE_COLUMNS if column in available), None)
    if image is None and data.image_column is None:
        raise DataError(
            f"{source!r} has no column named {', '.join(map(repr, IMAGE_COLUMNS))}; it has {_listed(available)}: "
            f"name the one of the pictures in data.image_column"
        )
    identity = data.identity_column
    return Columns(
        image=_existing(source, data.image_column or image or "", available),
        condition=data.condition_column and _existing(source, data.condition_column, available),
        captions=tuple(_existing(source, column, available) for column in captions),
        identity=None
        if identity == DEFAULT_IDENTITY and identity not in available
        else _existing(source, identity, available),
    )


def default_captions(available: Sequence[str]) -> list[str]:
    """Columns that hold captions when nobody says which."""
    return [column for column in available if column == "text" or column.startswith("caption")]


def missing_column(source: str, column: str, available: Sequence[str]) -> DataError:
    """The failure of a column that is not there."""
    return DataError(f"{source!r} has no column {column!r}; it has {_listed(available)}")


def _existing(source: str, column: str, available: Sequence[str]) -> str:
    # `condition` is what Hugging Face calls a column that is written `condition_file_name`.
    for name in (column, f"{column}_file_name"):
        if name in available:
            return name
    raise missing_column(source, column, available)


def _listed(columns: Sequence[str]) -> str:
    return ", ".join(columns) or "none"


def record_of(row: Row, columns: Columns, names: PictureNames) -> Record:
    """The record of a row; it may lack captions.

    Raises:
        DataError: It has no picture, or something else where a picture or a caption should be.
    """
    image = _picture(row, columns.image, names)
    if image is None:
        raise DataError(f"{row.place} names no image in {columns.image!r}; name one or remove the row")
    key = row.key or str(row.values[columns.image])
    said = None if columns.identity is None else row.values.get(columns.identity)
    return Record(
        key=key,
        image=image,
        # The same caption twice would be drawn twice as often.
        captions=tuple(dict.fromkeys(caption for column in columns.captions for caption in _captions(row, column))),
        identity=key if said in (None, "") else str(said),
        condition=None if columns.condition is None else _picture(row, columns.condition, names),
    )


def _picture(row: Row, column: str, names: PictureNames) -> Picture | None:
    value = row.values.get(column)
    if value is None or value == "":
        return None
    if isinstance(value, Picture):
        return value
    if not isinstance(value, str | int | float):
        raise DataError(f"{row.place} has no name of a picture in {column!r} but {str(value)[:80]!r}; write a name")
    return names.picture(str(value))


def _captions(row: Row, column: str) -> list[str]:
    value = row.values.get(column)
    if value is None:
        return []
    values = value if isinstance(value, list) else [value]
    if any(isinstance(one, list | dict) for one in values):
        raise DataError(f"{row.place} has neither a text nor a list of texts in {column!r}; name another column")
    return [text for one in values if one is not None and (text := str(one).strip())]
