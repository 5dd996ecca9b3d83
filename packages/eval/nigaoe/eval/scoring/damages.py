"""Ways to spoil a picture, each with growing strengths: what a metric must notice."""

import io
from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np
from PIL import Image, ImageFilter

Damage = Callable[[Image.Image, float], Image.Image]


def noise(image: Image.Image, sigma: float) -> Image.Image:
    """Gaussian noise, sigma in fractions of white; the same noise every time."""
    pixels = np.asarray(image, np.float64) / 255
    spoilt = pixels + np.random.default_rng(0).normal(0.0, sigma, pixels.shape)
    return Image.fromarray((spoilt.clip(0, 1) * 255).round().astype(np.uint8))


def blur(image: Image.Image, radius_px: float) -> Image.Image:
    """Gaussian blur."""
    return image.filter(ImageFilter.GaussianBlur(radius_px))


def jpeg(image: Image.Image, quality: float) -> Image.Image:
    """Through a JPEG file, quality 1 to 95."""
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=int(quality))
    with Image.open(buffer) as spoilt:
        return spoilt.convert("RGB")


DAMAGES: Mapping[str, tuple[Damage, tuple[float, ...]]] = MappingProxyType(
    {
        "noise": (noise, (0.02, 0.05, 0.1, 0.2)),
        "blur": (blur, (0.5, 1.0, 2.0, 4.0)),
        "jpeg": (jpeg, (80, 40, 15, 4)),
    }
)
"""Strengths from slight to plain."""
