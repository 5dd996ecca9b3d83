"""Shapes of training pictures: one square, or several aspect ratios of about the same area."""

import math
from collections.abc import Sequence
from typing import NamedTuple

from nigaoe.core.errors import ConfigError

WIDEST = 2.0
"""Aspect ratio up to which buckets divide what there is; beyond it, pictures are cut to the outermost bucket."""


class Shape(NamedTuple):
    """Of a training picture, px."""

    height: int
    width: int

    @property
    def log_aspect(self) -> float:
        """Natural logarithm of width over height."""
        return math.log(self.width / self.height)


def bucket_shapes(resolution_px: int, multiple: int, count: int) -> list[Shape]:
    """At most `count` shapes, from tall to wide: the square and pairs that are each other turned.

    Sides are multiples of `multiple`, areas at most that of the square, as in NovelAI's buckets and kohya's. Of those,
    the nearest to the middles of `count` equal parts of the range of log aspect ratios are taken, so that three are
    about 2:3, 1:1 and 3:2, and five about 9:16, 3:4, 1:1, 4:3 and 16:9. Fewer where `multiple` is too coarse for more.

    Raises:
        ConfigError: The square itself is no multiple.
    """
    require_multiple(resolution_px, multiple)
    square = Shape(resolution_px, resolution_px)
    # The largest of its height, and no flatter than half the side by twice the side.
    shorter = range(resolution_px - multiple, resolution_px // 2 - 1, -multiple)
    wide = [Shape(short, resolution_px**2 // short // multiple * multiple) for short in shorter]
    pairs = (count - 1) // 2
    middles = [math.log(WIDEST) * 2 * (k + 1) / (2 * pairs + 1) for k in range(pairs)]
    chosen = {min(wide, key=lambda shape: abs(shape.log_aspect - middle)) for middle in middles if wide}
    turned = {Shape(shape.width, shape.height) for shape in chosen}
    return sorted({square} | chosen | turned, key=lambda shape: shape.log_aspect)


def nearest(shapes: Sequence[Shape], height: int, width: int) -> int:
    """Index of the bucket whose log aspect ratio is nearest to a picture's."""
    log_aspect = math.log(width / height)
    return min(range(len(shapes)), key=lambda i: abs(shapes[i].log_aspect - log_aspect))


def require_multiple(resolution_px: int, multiple: int) -> None:
    """Refuse a side that the UNet cannot halve as often as it has to.

    Raises:
        ConfigError: It is no multiple of `multiple`.
    """
    if resolution_px % multiple:
        below = resolution_px // multiple * multiple
        near = " or ".join(str(side) for side in (below, below + multiple) if side)
        raise ConfigError(
            f"data.resolution_px {resolution_px} is no multiple of {multiple} px, as this base needs; take {near}"
        )
