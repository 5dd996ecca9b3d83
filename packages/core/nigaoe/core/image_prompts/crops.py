"""Ways to show a reference picture that is not square to an image encoder, which sees squares only.

A square of the encoder's own input size passes through its processor as it is, so what comes from here is what it sees.
"""

import math
from collections.abc import Sequence
from typing import Literal, get_args

from PIL import Image

from nigaoe.core.errors import ImageError, RequestError
from nigaoe.core.images import MAX_PIXELS

CropMode = Literal["centre", "pad", "resize", "tile"]
"""centre: the short side fills the square and the rest of the long side is cut off, as CLIP does. pad: all of it, with
borders. resize: all of it, squeezed. tile: all of it, in several overlapping squares."""

CROP_MODES: tuple[CropMode, ...] = get_args(CropMode)

MAX_TILES = 16
"""Every tile is a picture more to encode and as many tokens more to attend to."""


def mean_colour(image_mean: Sequence[float]) -> tuple[int, int, int]:
    """The 8-bit colour nearest to a processor's `image_mean`, which it normalises to almost zero."""
    red, green, blue = (round(255 * value) for value in image_mean)
    return red, green, blue


CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
"""Of CLIP's training pictures, by which its processor normalises (Radford et al. 2021, the published code)."""

# Zero after normalisation is what adapters were trained to take for no picture, so such a border says nothing; black,
# the usual choice, is a dark frame to the encoder.
CLIP_MEAN_COLOUR = mean_colour(CLIP_MEAN)


def crop_reference(
    image: Image.Image,
    mode: CropMode,
    side: int,
    position: tuple[float, float] = (0.5, 0.5),
    fill: tuple[int, int, int] = CLIP_MEAN_COLOUR,
) -> list[Image.Image]:
    """Squares of `side` px, RGB, bicubic; one, but of `tile` as many as cover the picture.

    Args:
        image: A picture of any shape.
        mode: How to make it square.
        side: The encoder's input size, px.
        position: Of the square in `centre`, (x, y) in [0, 1]: (0.5, 0) is the top, (1, 0.5) the right.
        fill: Colour of the borders of `pad`; `mean_colour` gives that of an encoder with other means than CLIP's.

    Raises:
        RequestError: No such mode, a side below 1 px, or a position outside [0, 1].
        ImageError: A picture without pixels, or too long for `MAX_TILES` or `MAX_PIXELS`.
    """
    _require_choices(mode, side, position)
    if min(image.size) < 1:
        raise ImageError(f"a picture of {_size(image)} px has no pixels; give one that has")
    rgb = image.convert("RGB")
    if mode == "resize":
        return [rgb.resize((side, side), Image.Resampling.BICUBIC)]
    if mode == "pad":
        return [_padded(rgb, side, fill)]
    if mode == "tile":
        return _tiles(rgb, side)
    return [_centre(rgb, side, position)]


def _require_choices(mode: str, side: int, position: tuple[float, float]) -> None:
    if mode not in CROP_MODES:
        raise RequestError(f"there is no crop mode {mode!r}; choose one of {', '.join(CROP_MODES)}")
    if side < 1:
        raise RequestError(f"a crop of {side} px was asked for; give the encoder's input size, at least 1 px")
    if not all(0.0 <= value <= 1.0 for value in position):
        raise RequestError(f"crop position {position!r} is outside [0, 1]; give (x, y), (0.5, 0) being the top")


def _size(image: Image.Image) -> str:
    return f"{image.width}x{image.height}"


def _long_side(image: Image.Image, side: int) -> int:
    """Of the picture whose short side is `side` px, rounded as CLIP's processor does."""
    return int(side * max(image.size) / min(image.size))


def _filled(image: Image.Image, side: int) -> Image.Image:
    """The picture with its short side `side` px."""
    long = _long_side(image, side)
    if side * long > MAX_PIXELS:
        raise ImageError(f"a picture of {_size(image)} px would fill the encoder's square as {side}x{long} px; cut it")
    return image.resize((long, side) if image.width > image.height else (side, long), Image.Resampling.BICUBIC)


def _square(filled: Image.Image, offset: int) -> Image.Image:
    """The square `offset` px along the long side."""
    side = min(filled.size)
    left, top = (offset, 0) if filled.width > filled.height else (0, offset)
    return filled.crop((left, top, left + side, top + side))


def _centre(image: Image.Image, side: int, position: tuple[float, float]) -> Image.Image:
    # Resampled in one piece and then cut: Pillow chooses the order of its two passes by the size of the result, and the
    # order shows, by some grey levels where there is much contrast.
    filled = _filled(image, side)
    along = position[0] if filled.width > filled.height else position[1]
    return _square(filled, int(along * (max(filled.size) - side)))


def _tiles(image: Image.Image, side: int) -> list[Image.Image]:
    """As few squares as cover the long side, evenly spread; both ends are the ends of one."""
    tiles = math.ceil(_long_side(image, side) / side)
    if tiles > MAX_TILES:
        raise ImageError(
            f"a picture of {_size(image)} px takes {tiles} tiles, more than the {MAX_TILES} allowed; "
            "cut it or choose crop mode 'pad'"
        )
    filled = _filled(image, side)
    room = max(filled.size) - side
    return [_square(filled, index * room // max(1, tiles - 1)) for index in range(tiles)]


def _padded(image: Image.Image, side: int, fill: tuple[int, int, int]) -> Image.Image:
    """The whole picture in the middle of a square of `fill`."""
    long = max(image.size)
    width, height = (max(1, round(side * length / long)) for length in image.size)
    square = Image.new("RGB", (side, side), fill)
    square.paste(image.resize((width, height), Image.Resampling.BICUBIC), ((side - width) // 2, (side - height) // 2))
    return square
