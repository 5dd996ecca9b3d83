"""A folder of pictures with captions beside them: `ann.jpg` and `ann.txt`, in any of its folders."""

import posixpath
from collections import defaultdict
from collections.abc import Iterator

from nigaoe.core import storage
from nigaoe.core.errors import DataError
from nigaoe.core.storage import FileStat
from nigaoe.train.config import DataConfig
from nigaoe.train.records.formats.samples import (
    Sample,
    list_samples,
    require_columns,
    split_name,
    text_extensions,
)
from nigaoe.train.records.names import is_picture_name
from nigaoe.train.records.record import Picture
from nigaoe.train.records.rows import Listing
from nigaoe.train.records.sources import Source

FOLDER = "folder"
"""Column that says in which of the folders a picture is."""


def read_folder(source: Source, data: DataConfig) -> Listing:
    """One row for each picture.

    Raises:
        DataError: There are none, or a column or a text that cannot be read.
    """
    listing, seen = list_samples(_samples(source, data), data, data.image_root or source.root)
    if not listing.records:
        raise DataError(f"folder {source.name!r} holds no pictures; name another one or another data.format")
    require_columns(source.name, seen, data)
    return listing


def _samples(source: Source, data: DataConfig) -> Iterator[Sample]:
    """One for each picture to be learnt, with what is beside it."""
    stems: dict[str, dict[str, FileStat]] = defaultdict(dict)
    for file in source.files:
        stem, extension = split_name(file.name, data)
        stems[stem][extension] = file
    texts = text_extensions(data)
    said = [file for beside in stems.values() for extension, file in beside.items() if extension in texts]
    contents = dict(zip((file.uri for file in said), storage.read_many([file.uri for file in said]), strict=True))
    for beside in stems.values():
        condition = beside.get(data.condition_column or "")
        others = {} if condition is None else {str(data.condition_column): Picture(condition.uri)}
        for extension, file in beside.items():
            is_image = is_picture_name(extension) if data.image_column is None else extension == data.image_column
            if is_image and file is not condition:
                yield Sample(
                    file.name,
                    f"picture {file.name!r} of {source.name!r}",
                    {**others, extension: Picture(file.uri)},
                    {ext: contents[beside[ext].uri] for ext in beside if ext in texts},
                    {FOLDER: posixpath.dirname(file.name)},
                )
