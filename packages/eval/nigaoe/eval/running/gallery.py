"""Small pictures of samples, for the page: what each system made of the same reference with the same noise."""

import io
from dataclasses import dataclass

from PIL import Image

SIDE_PX = 256
_QUALITY = 90


@dataclass(frozen=True, eq=False)
class Gallery:
    """WebP files by sample id; of the first samples of each cell alone, see `EvalConfig.thumbnails`."""

    references: dict[str, bytes]
    pictures: dict[str, dict[str, bytes]]
    """By cell, then by sample. A failed sample has none."""


def thumbnail(image: Image.Image) -> bytes:
    """A WebP file of at most 256 px a side."""
    small = image.convert("RGB")
    # Whole factors by boxes first: a third of the time, and no eye tells.
    small.thumbnail((SIDE_PX, SIDE_PX), Image.Resampling.LANCZOS, reducing_gap=1.0)
    buffer = io.BytesIO()
    # Pillow's own method, 4, takes twice as long for a file 2 % smaller.
    small.save(buffer, format="WEBP", quality=_QUALITY, method=2)
    return buffer.getvalue()
