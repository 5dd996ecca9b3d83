"""Pictures with files of the same name beside them, in a folder or in a tar: what the extensions mean."""

import json
import posixpath
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from nigaoe.core.errors import DataError
from nigaoe.train.config import DataConfig
from nigaoe.train.records.names import PictureNames, picture_rank
from nigaoe.train.records.record import Picture
from nigaoe.train.records.rows import (
    DEFAULT_IDENTITY,
    Columns,
    Listing,
    Row,
    default_captions,
    missing_column,
)

CAPTION_EXTENSIONS = ("txt", "caption")
"""Captions where no column says otherwise, the first of them that is there: one on each line."""
IMAGE, CAPTIONS = "picture", "txt, caption or json"
"""Columns that stand for whichever a sample has; the names are for messages."""


@dataclass
class Sample:
    """A picture and what is beside it."""

    key: str
    place: str
    """For messages: `sample '0001' of 'shard.tar'`."""
    pictures: dict[str, Picture] = field(default_factory=dict)
    """By extension."""
    texts: dict[str, bytes] = field(default_factory=dict)
    """By extension."""
    known: dict[str, str] = field(default_factory=dict)
    """What else is known of it, by column."""


def text_extensions(data: DataConfig) -> set[str]:
    """Extensions of the files that have to be read for what they say."""
    return {*CAPTION_EXTENSIONS, "json", data.identity_column, *(data.caption_columns or ())}


def split_name(name: str, data: DataConfig) -> tuple[str, str]:
    """A name without extension, and the extension; one with dots in it counts as one where a column is named so."""
    for column in (data.image_column, data.condition_column, data.identity_column, *(data.caption_columns or ())):
        if column is not None and name.endswith(f".{column}"):
            return name[: -len(column) - 1], column
    stem, extension = posixpath.splitext(name)
    return stem, extension[1:].lower()


def list_samples(samples: Iterable[Sample], data: DataConfig, folder: str) -> tuple[Listing, set[str]]:
    """Rows of samples, and all columns that they have; names in their JSON are relative to the folder.

    Raises:
        DataError: One has no picture, or a text that cannot be read.
    """
    names, listing, seen = PictureNames(folder), Listing(), set[str]()
    for sample in samples:
        values = _values(sample)
        seen |= values.keys()
        if data.image_column is None:
            extensions = sorted(sample.pictures.keys() - {data.condition_column}, key=picture_rank)
            values[IMAGE] = next((sample.pictures[one] for one in extensions if picture_rank(one) < _NO_PICTURE), None)
        if data.caption_columns is None:
            values[CAPTIONS] = _default_captions(values)
        columns = Columns(
            image=data.image_column or IMAGE,
            condition=data.condition_column,
            captions=tuple(data.caption_columns or (CAPTIONS,)),
            identity=data.identity_column,
        )
        if not values.get(columns.image):
            beside = ", ".join(sorted(values.keys() - {IMAGE, CAPTIONS})) or "nothing"
            raise DataError(
                f"{sample.place} has no {columns.image!r} but {beside}; add one, or name another in data.image_column"
            )
        listing.add(Row(sample.place, values, sample.key), columns, names)
    return listing, seen


_NO_PICTURE = picture_rank("")


def require_columns(source: str, seen: set[str], data: DataConfig) -> None:
    """Refuse columns that the config names and no sample has.

    Raises:
        DataError: There is one.
    """
    named = [data.condition_column, *(data.caption_columns or ())]
    if data.identity_column != DEFAULT_IDENTITY:
        named.append(data.identity_column)
    for column in named:
        if column is not None and column not in seen:
            raise missing_column(source, column, sorted(seen))


def _values(sample: Sample) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for extension, content in sample.texts.items():
        try:
            text = content.decode("utf-8-sig")
            said = json.loads(text) if extension == "json" else None
        except UnicodeDecodeError:
            raise DataError(f"{extension} of {sample.place} is not UTF-8 text; save it as UTF-8") from None
        except json.JSONDecodeError as error:
            raise DataError(f"{extension} of {sample.place} is not valid JSON ({error}); mend its syntax") from None
        if isinstance(said, dict):
            # Of img2dataset's many entries; what a file of the sample says counts more.
            values = {**said, **values}
        elif extension != "json":
            values[extension] = [line for line in map(str.strip, text.split("\n")) if line]
    for column, value in values.items():
        if isinstance(value, list) and len(value) == 1:
            values[column] = value[0]
    return {**values, **sample.known, **sample.pictures}


def _default_captions(values: Mapping[str, Any]) -> list[Any]:
    for extension in CAPTION_EXTENSIONS:
        if values.get(extension):
            said = values[extension]
            return said if isinstance(said, list) else [said]
    return [
        caption
        for column in default_captions(list(values))
        if values[column]
        for caption in (values[column] if isinstance(values[column], list) else [values[column]])
    ]
