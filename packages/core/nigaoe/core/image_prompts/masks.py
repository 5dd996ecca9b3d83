"""Masks of image prompts, from whatever they were drawn with."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.errors import ImageError


def as_mask(mask: Image.Image | np.ndarray | Tensor) -> Tensor:
    """Any accepted mask as float32 [H, W] in [0, 1].

    Accepted: PIL, read as grey; uint8 of 0 to 255; bool; float in [0, 1]; arrays and tensors of [H, W] or [1, H, W].

    Raises:
        ImageError: Another type, shape or range.
    """
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L"))
    values = torch.from_numpy(np.array(mask)) if isinstance(mask, np.ndarray) else mask
    if not isinstance(values, Tensor):
        raise ImageError(f"a mask of type {type(mask).__name__} was given; give PIL, an array or a tensor")
    if values.dim() == 3 and len(values) == 1:
        values = values[0]
    if values.dim() != 2:
        raise ImageError(f"a mask of shape {list(values.shape)} was given; give [H, W]")
    values = values.float() / 255 if values.dtype == torch.uint8 else values.float()
    low, high = float(values.min()), float(values.max())
    if not (low >= 0 and high <= 1):
        raise ImageError(f"a mask must lie in [0, 1], this one lies in [{low:g}, {high:g}]; rescale it or give uint8")
    return values
