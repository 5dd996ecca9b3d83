"""How rows of a dataset become what a step reads: all that decides it, small enough to send to every worker."""

from dataclasses import dataclass

from nigaoe.core.adapters.variants import Variant, variant_named
from nigaoe.core.places import everywhere, face_encoder_everywhere
from nigaoe.train.config import TrainConfig
from nigaoe.train.running.trainable import require_trainable
from nigaoe.train.samples.buckets import Shape, bucket_shapes
from nigaoe.train.samples.views import Augmentation, require_views

VERSION = 3
"""Of everything below; raised whenever the same pictures would be encoded otherwise, or more be said of them."""


@dataclass(frozen=True)
class Recipe:
    """Names are such that every process understands them, whatever folder it runs in."""

    base: str
    is_xl: bool
    variant_name: str
    image_encoder: str
    face_encoder: str | None
    resolution_px: int
    shapes: tuple[Shape, ...]
    views: int
    augment: tuple[Augmentation, ...]

    @property
    def variant(self) -> Variant:
        """What is trained."""
        return variant_named(self.variant_name)


def recipe_of(config: TrainConfig) -> Recipe:
    """The recipe that a config asks for.

    Raises:
        ConfigError: The base cannot be trained on, or not at this resolution, or views would be equal.
        BaseModelError: It cannot be found.
    """
    outline, data = require_trainable(config.base), config.data
    require_views(data.views, data.augment)
    resolution_px = data.resolution_px or outline.default_size_px
    return Recipe(
        base=everywhere(config.base),
        is_xl=outline.is_xl,
        variant_name=config.adapter.kind.name,
        image_encoder=everywhere(config.image_encoder),
        face_encoder=None if config.face_encoder is None else face_encoder_everywhere(config.face_encoder),
        resolution_px=resolution_px,
        shapes=tuple(bucket_shapes(resolution_px, outline.size_multiple, data.aspect_ratios)),
        views=data.views,
        augment=tuple(data.augment) if data.views > 1 else (),
    )
