"""Views: ways to cut a training picture out of a photo, the same on every machine and in every run."""

import hashlib
from collections.abc import Sequence
from typing import Literal, NamedTuple

import torch
from PIL import Image, ImageOps

from nigaoe.core.errors import ConfigError
from nigaoe.train.samples.buckets import Shape

CLOSEST = 1.15
"""The most that a view is enlarged beyond what covers its bucket."""

Augmentation = Literal["crop", "flip"]


class View(NamedTuple):
    """A cut: mirror, resize, crop."""

    is_flipped: bool
    resized: Shape
    top: int
    left: int
    shape: Shape
    """Of the crop."""


def require_views(views: int, augment: Sequence[Augmentation]) -> None:
    """Refuse to encode the same twice.

    Raises:
        ConfigError: More views than `augment` makes.
    """
    most = 1 if not augment else 2 if list(augment) == ["flip"] else views
    if views > most:
        names = ", ".join(augment) or "nothing"
        raise ConfigError(
            f"data.views is {views} and data.augment ({names}) makes {most} that differ; lower views or augment by crop"
        )


def view_of(key: str, index: int, size: Shape, shape: Shape, augment: Sequence[Augmentation]) -> View:
    """View `index` of the picture of a row: 0 as it is, every other one mirrored, all but 0 cropped elsewhere."""
    cover = max(shape.height / size.height, shape.width / size.width)
    is_cropped = index > 0 and "crop" in augment
    zoom, down, right = _uniform(key, index) if is_cropped else (0.0, 0.5, 0.5)
    scale = cover * (1 + (CLOSEST - 1) * zoom)
    resized = Shape(max(shape.height, round(size.height * scale)), max(shape.width, round(size.width * scale)))
    free_down, free_right = resized.height - shape.height, resized.width - shape.width
    is_flipped = "flip" in augment and index % 2 == 1
    return View(is_flipped, resized, int(free_down * down), int(free_right * right), shape)


def cut(image: Image.Image, view: View) -> Image.Image:
    """A view of an RGB picture; antialiased bilinear, as in the published recipe."""
    if view.is_flipped:
        image = ImageOps.mirror(image)
    image = image.resize((view.resized.width, view.resized.height), Image.Resampling.BILINEAR)
    return image.crop((view.left, view.top, view.left + view.shape.width, view.top + view.shape.height))


def time_ids(size: Shape, view: View) -> list[int]:
    """What SDXL is told of a view, as Stability trained it (arXiv 2307.01952, sec. 2.2): height before width, always.

    Original height and width; top and left of the crop in the resized (and mirrored) picture; height and width.
    """
    return [size.height, size.width, view.top, view.left, view.shape.height, view.shape.width]


def _uniform(key: str, index: int) -> list[float]:
    digest = hashlib.sha256(f"view/{key}/{index}".encode()).digest()
    generator = torch.Generator().manual_seed(int.from_bytes(digest[:8]) >> 1)
    drawn: list[float] = torch.rand(3, generator=generator).tolist()
    return drawn
