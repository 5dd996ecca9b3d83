"""From a picture to what an autoencoder takes."""

import numpy as np
import torch
from PIL import Image
from torch import Tensor


def centre_crop(image: Image.Image, side_px: int) -> Image.Image:
    """Shorter side to `side_px` (antialiased bilinear), then the middle square: the published training crop."""
    scale = side_px / min(image.size)
    size = max(side_px, round(image.width * scale)), max(side_px, round(image.height * scale))
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = (image.width - side_px) // 2, (image.height - side_px) // 2
    return image.crop((left, top, left + side_px, top + side_px))


def as_pictures(pixels: Tensor) -> Tensor:
    """Pixels [B, 3, H, W] in [-1, 1] to uint8 [B, H, W, 3] on the CPU; rounded, not cut."""
    return ((pixels + 1) * 127.5).round().clamp(0, 255).to(torch.uint8).permute(0, 2, 3, 1).cpu()


def to_tensor(image: Image.Image) -> Tensor:
    """RGB picture to float32 [3, H, W] in [-1, 1]."""
    return torch.from_numpy(np.asarray(image.convert("RGB"), np.float32).transpose(2, 0, 1) / 127.5 - 1)
