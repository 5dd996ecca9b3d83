"""What pictures seem to become while they are drawn: the autoencoder's view of a small copy of the estimate.

Every step implies an estimate of the finished picture. Decoding it whole costs as much as three rows of a UNet call at
512 px; at half its sides, a quarter of that.
"""

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor

from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import Row
from nigaoe.core.pixels import as_pictures

LATENT_SIDE = 32
"""Latents are made smaller by a whole number as long as their short side keeps so many positions."""


@torch.no_grad()
def previews(base: Base, rows: Sequence[Row]) -> dict[int, Image.Image]:
    """By id, at the size of the picture; rows without a step or without numbers are left out. Rows stay as they are."""
    shown: dict[int, Image.Image] = {}
    for row in rows:
        x0 = _estimate(row)
        if x0 is None:
            continue
        height, width = (side * base.vae_factor for side in x0.shape[1:])
        factor = max(1, min(x0.shape[1:]) // LATENT_SIDE)
        pixels = base.decode_pixels(F.avg_pool2d(x0[None], factor))
        if bool(torch.isfinite(pixels).all()):
            picture = Image.fromarray(as_pictures(pixels)[0].numpy())
            shown[row.id] = picture.resize((width, height), Image.Resampling.BICUBIC) if factor > 1 else picture
    return shown


def _estimate(row: Row) -> Tensor | None:
    """[C, h, w]; of an inpainted row, with what it keeps around the mask."""
    if row.previous_x0 is None or row.inpainting is None:
        return row.previous_x0
    return torch.where(row.inpainting.mask > 0, row.previous_x0, row.inpainting.x0)
