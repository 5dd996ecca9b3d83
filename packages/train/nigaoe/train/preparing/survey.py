"""What is known of pictures before they are decoded: sizes from headers, and stamps that tell when they change."""

import io
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import lru_cache
from typing import IO, NamedTuple

from PIL import ExifTags, Image, UnidentifiedImageError

from nigaoe.core import storage
from nigaoe.core.errors import ImageError
from nigaoe.core.stores import MissingFile, UnusableFile
from nigaoe.train.records.pictures import picture_bytes
from nigaoe.train.records.record import Picture, Record
from nigaoe.train.samples.buckets import Shape

THREADS = 16
"""Files are looked at so many at a time, for what takes the time is waiting for their storage."""


class Found(NamedTuple):
    """Of one row."""

    stamp: str
    """Another one whenever a picture may have changed."""
    size: Shape | None
    """Of the picture to be learnt, upright; None where it was not asked for or cannot be known."""
    problem: str | None
    """Why it cannot be known."""


def survey(records: Sequence[Record], *, with_sizes: bool) -> list[Found]:
    """Look at the pictures of rows, in order."""
    stamp = lru_cache(maxsize=4096)(_stamp)

    def look(record: Record) -> Found:
        pictures = (record.image,) if record.condition is None else (record.image, record.condition)
        stamps = "/".join(stamp(picture.uri) for picture in pictures)
        if not with_sizes:
            return Found(stamps, None, None)
        try:
            return Found(stamps, _size(record.image), None)
        except ImageError as error:
            return Found(stamps, None, str(error))

    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(look, records))


def _stamp(uri: str) -> str:
    """Size and time of a file; nothing where there is no file, which decoding will say in words."""
    try:
        stat = storage.stat(uri)
    except UnusableFile:
        return ""
    return "" if stat is None else f"{stat.size}-{stat.mtime_ns}"


def _size(picture: Picture) -> Shape:
    try:
        is_whole_file = picture.start is None and picture.column is None
        with storage.open_file(picture.uri) if is_whole_file else io.BytesIO(picture_bytes(picture)) as file:
            return _upright_size(file, picture.name)
    except MissingFile:
        raise ImageError(f"image file {picture.name!r} does not exist; mend the path") from None
    except UnusableFile as error:
        raise ImageError(str(error)) from None


def _upright_size(file: IO[bytes], name: str) -> Shape:
    try:
        with Image.open(file) as image:
            # A PNG may keep its EXIF behind all its pixels; nobody decodes them to find out.
            exif = image.getexif() if image.format != "PNG" or "exif" in image.info else {}
            is_turned = exif.get(ExifTags.Base.Orientation, 1) in (5, 6, 7, 8)
            width, height = image.size
    except UnidentifiedImageError:
        raise ImageError(f"{name!r} is not a picture; give a JPEG, PNG or WebP file") from None
    # Over damaged headers, decoders raise whatever their arithmetic happens to raise.
    except Exception as error:
        raise ImageError(f"{name!r} is damaged or truncated ({error}); replace the file") from None
    return Shape(width, height) if is_turned else Shape(height, width)
