"""From a picture to what an autoencoder takes."""

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from nigaoe.core.errors import ImageError
from nigaoe.core.images import to_rgb

ImageLike = Image.Image | Tensor | np.ndarray


def as_pil(image: ImageLike) -> Image.Image:
    """Any accepted picture as RGB PIL, turned as its EXIF says, transparency over white.

    Accepted: PIL; uint8 [H, W, 3] or [3, H, W]; float [3, H, W] or [H, W, 3] in [0, 1], rounded to 8 bits.

    Raises:
        ImageError: Another shape, dtype or range. A float picture in [0, 255] or [-1, 1] is refused, never guessed at.
    """
    if isinstance(image, Image.Image):
        if min(image.size) < 1:
            raise ImageError(f"a picture of {image.width}x{image.height} px has no pixels; give one that has")
        return to_rgb(ImageOps.exif_transpose(image))
    if isinstance(image, Tensor):
        # numpy has no bfloat16.
        image = (image.float() if image.is_floating_point() else image).detach().cpu().numpy()
    if not isinstance(image, np.ndarray):
        raise ImageError(f"a picture of type {type(image).__name__} was given; give PIL, an array or a tensor")
    pixels = image
    if pixels.ndim != 3 or 3 not in (pixels.shape[0], pixels.shape[2]):
        raise ImageError(f"a picture of shape {list(pixels.shape)} was given; give [H, W, 3] or [3, H, W]")
    if pixels.shape[2] != 3:
        pixels = pixels.transpose(1, 2, 0)
    if np.issubdtype(pixels.dtype, np.floating):
        low, high = float(np.min(pixels)), float(np.max(pixels))
        if not (low >= 0.0 and high <= 1.0):
            raise ImageError(
                f"a float picture must lie in [0, 1], this one lies in [{low:g}, {high:g}]; rescale it or give uint8"
            )
        pixels = (pixels * 255).round().astype(np.uint8)
    if pixels.dtype != np.uint8:
        raise ImageError(f"a picture of dtype {pixels.dtype} was given; give uint8, or float in [0, 1]")
    return Image.fromarray(np.ascontiguousarray(pixels))


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
