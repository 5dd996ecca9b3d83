"""Pictures wherever rows say that they are."""

from PIL import Image

from nigaoe.core import storage
from nigaoe.core.errors import ImageError
from nigaoe.core.images import read_image
from nigaoe.core.stores import MissingFile, UnusableFile
from nigaoe.train.records.parquet_files import parquet_bytes
from nigaoe.train.records.record import Picture


def picture_bytes(picture: Picture) -> bytes:
    """A picture as it is stored.

    Raises:
        ImageError: It is missing, or its file is not to be read.
        DataError: The place where it is kept fails, or the Parquet file that holds it: other pictures would fail too.
    """
    try:
        if picture.column is not None:
            return parquet_bytes(picture)
        content = storage.read_bytes(picture.uri, picture.start, picture.length)
    except MissingFile:
        raise ImageError(f"image file {picture.name!r} does not exist; mend the path") from None
    except UnusableFile as error:
        raise ImageError(str(error)) from None
    if picture.length is not None and len(content) < picture.length:
        raise ImageError(f"{picture.name!r} is cut off; list the dataset again, for its file has changed")
    return content


def read_picture(picture: Picture) -> Image.Image:
    """A picture, upright and RGB.

    Raises:
        ImageError: It is missing, not a picture, too large or damaged.
        DataError: The place where it is kept fails.
    """
    return read_image(picture_bytes(picture), picture.name)
