"""The one way by which pictures enter a metric: whatever they come as, 8-bit RGB, upright, or refused by name.

The same picture as uint8, as float in [0, 1] and as PIL becomes the same bytes, so that its embedding is the same, too.
One that is as it should be stays the same object, by which its hash is known.
"""

from collections.abc import Sequence

import numpy as np
from PIL import Image
from PIL.ExifTags import Base
from torch import Tensor

from nigaoe.core.errors import ImageError
from nigaoe.core.pixels import ImageLike, as_pil

MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "I;16", "I;16L", "I;16B", "I;16N")
"""Modes of Pillow whose meaning is certain: 16 bits span 0..65535, transparency lies over white."""

_TWICE = 1.001 / 255

Pictures = Sequence[ImageLike] | Tensor
"""Several pictures; a tensor is a batch, [N, 3, H, W] or [N, H, W, 3]."""


def picture(image: ImageLike) -> Image.Image:
    """One picture as RGB, as `nigaoe.core.pixels.as_pil` has it, less all that could only be guessed at.

    Raises:
        ImageError: Another shape, dtype, range or mode; NaN; a float picture that was rescaled twice; a broken file.
    """
    if isinstance(image, Image.Image):
        _require_known(image)
        if _is_ready(image):
            return image
    elif isinstance(image, Tensor | np.ndarray):
        _require_plain(image)
    return as_pil(image)


def pictures(images: Pictures) -> list[Image.Image]:
    """Several pictures; the error says which one was refused.

    Raises:
        ImageError: One of them, or there are none.
    """
    if len(images) == 0:
        raise ImageError("no pictures were given; give one or more")
    seen = []
    for i, image in enumerate(images):
        try:
            seen.append(picture(image))
        except ImageError as error:
            raise ImageError(f"picture {i + 1} of {len(images)}: {error}") from None
    return seen


def sift(images: Sequence[ImageLike], ids: Sequence[str]) -> tuple[dict[str, Image.Image], dict[str, str]]:
    """Readable pictures by id, and the reason for each of the others, to be told to a metric's `fail`."""
    readable, refused = {}, {}
    for sample, image in zip(ids, images, strict=True):
        try:
            readable[sample] = picture(image)
        except ImageError as error:
            refused[sample] = str(error)
    return readable, refused


def _require_known(image: Image.Image) -> None:
    if image.mode not in MODES:
        raise ImageError(
            f"a picture of mode {image.mode!r} was given, whose colours can only be guessed at; "
            "convert it to RGB with its own profile or range"
        )
    try:
        image.load()
    except (OSError, SyntaxError, EOFError, ValueError) as error:
        raise ImageError(f"a picture is damaged or truncated ({error}); replace the file") from None


def _is_ready(image: Image.Image) -> bool:
    return image.mode == "RGB" and "transparency" not in image.info and image.getexif().get(Base.Orientation, 1) == 1


def _require_plain(image: Tensor | np.ndarray) -> None:
    shape = tuple(image.shape)
    if len(shape) == 3 and shape[0] == shape[2] == 3:
        raise ImageError(f"a picture of shape {list(shape)} may be read in two ways; give PIL")
    is_float = image.is_floating_point() if isinstance(image, Tensor) else np.issubdtype(image.dtype, np.floating)
    # All of a picture within one level of black is a picture divided by 255 twice; white is then 1 / 255, rounded.
    if is_float and min(shape, default=0) > 0 and float(image.min()) >= 0 and 0 < float(image.max()) <= _TWICE:
        raise ImageError(
            f"a float picture reaches no further than {float(image.max()):g}: it was rescaled twice; "
            "give uint8, or float in [0, 1]"
        )
