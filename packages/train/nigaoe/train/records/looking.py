"""One look at the pictures of a row: what training would see of them, and nothing of their pixels kept."""

import hashlib
import io
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from PIL import ExifTags, Image

from nigaoe.core.errors import ImageError
from nigaoe.core.images import MAX_PIXELS, read_image
from nigaoe.core.training_pictures import digest_of
from nigaoe.train.records.pictures import picture_bytes
from nigaoe.train.records.record import Picture, Record

DEEP_MODES = ("I", "F", "I;16", "I;16B", "I;16L", "I;16N")


@dataclass(frozen=True)
class Trait:
    """A finding about a picture, before it is known whose."""

    kind: str
    reason: str


@dataclass(frozen=True)
class Look:
    """What a picture is; about 300 bytes, whatever its size."""

    content: bytes = b""
    """Digest of the file."""
    pixels: bytes = b""
    """As `digest_of`: equal for one picture in two containers."""
    format: str = ""
    """`JPEG`, `PNG`, ..."""
    width: int = 0
    """Upright, px."""
    height: int = 0
    traits: tuple[Trait, ...] = ()
    failure: Trait | None = None
    """Why it cannot be read; all but the digest of the file is empty then."""


@dataclass(frozen=True)
class RowLook:
    """What the pictures of a row are."""

    image: Look
    condition: Look | None
    """Of the picture that prompts, where it is another one."""


def look_at_rows(records: Sequence[Record]) -> list[RowLook]:
    """Read the pictures of some rows, each once.

    Raises:
        DataError: The place where they are kept fails.
    """
    seen: dict[Picture, Look] = {}

    def once(picture: Picture) -> Look:
        if picture not in seen:
            seen[picture] = look_at(picture)
        return seen[picture]

    return [
        RowLook(once(row.image), None if row.condition in (None, row.image) else once(row.condition)) for row in records
    ]


def look_at(picture: Picture) -> Look:
    """Read a picture and say what it is, whatever is wrong with it.

    Raises:
        DataError: The place where it is kept fails; that says nothing of the picture.
    """
    try:
        content = picture_bytes(picture)
    except ImageError as error:
        return Look(failure=Trait("missing", str(error)))
    digest = hashlib.blake2b(content, digest_size=16).digest()
    try:
        with warnings.catch_warnings():
            # Pillow warns of odd metadata and of pictures that the next line refuses for their size.
            warnings.simplefilter("ignore")
            return _look(content, digest, picture.name)
    # Over damaged files, decoders raise whatever their arithmetic happens to raise.
    except Exception as error:
        reason = str(error) if isinstance(error, ImageError) else f"{picture.name!r} cannot be decoded ({error})"
        return Look(content=digest, failure=Trait(_failure_kind(content), reason))


def _failure_kind(content: bytes) -> str:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(io.BytesIO(content)) as image:
                width, height = image.size
    except Image.DecompressionBombError:
        return "too_large"
    except Exception:
        return "unreadable"
    return "too_large" if width * height > MAX_PIXELS else "damaged"


def _look(content: bytes, digest: bytes, name: str) -> Look:
    upright = read_image(content, name)
    pixels = np.asarray(upright)
    traits: list[Trait] = []
    with Image.open(io.BytesIO(content)) as image:
        traits += _header_traits(image)
        kind = image.format or ""
    if (pixels[..., 0] == pixels[..., 1]).all() and (pixels[..., 1] == pixels[..., 2]).all():
        traits.append(Trait("grey", "every pixel is grey"))
    return Look(digest, digest_of(upright), kind, upright.width, upright.height, tuple(traits))


def _header_traits(image: Image.Image) -> Iterator[Trait]:
    """What was stored; reading has decoded the same bytes before, so the pixels can be asked for."""
    frames = getattr(image, "n_frames", 1)
    # Phones put a preview or a depth map behind the photo, as a second frame of an MPO.
    if frames > 1 and image.format != "MPO":
        yield Trait("animated", f"{frames} frames")
    orientation = image.getexif().get(ExifTags.Base.Orientation, 1)
    if orientation in range(2, 9):
        yield Trait("rotated", f"EXIF orientation {orientation}")
    if image.mode == "CMYK":
        yield Trait("cmyk", "CMYK pixels")
    if image.mode in DEEP_MODES:
        yield Trait("deep", f"pixels of mode {image.mode}")
    if image.has_transparency_data:
        lowest, _ = image.convert("RGBA").getchannel("A").getextrema()
        if isinstance(lowest, int | float) and lowest < 255:
            yield Trait("transparent", "some pixels are not opaque")
