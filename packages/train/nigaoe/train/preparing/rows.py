"""From a row to arrays: all that a CPU does to it."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image
from torch import Tensor
from transformers import CLIPTokenizer

from nigaoe.core.base_parts import load_tokenizers
from nigaoe.core.text_encoders import tokenize
from nigaoe.train.preparing.recipe import Recipe
from nigaoe.train.records.record import Picture, Record
from nigaoe.train.samples.buckets import Shape
from nigaoe.train.samples.features import PictureReader, SeenPicture
from nigaoe.train.samples.views import cut, time_ids, view_of


class Views(NamedTuple):
    """V cuts of one picture."""

    pixels: np.ndarray
    """Uint8 [V, H, W, 3]."""
    time_ids: np.ndarray
    """Int32 [V, 6], see `views.time_ids`."""


@dataclass(frozen=True, eq=False)
class RowReader:
    """Reads rows by a recipe."""

    recipe: Recipe
    tokenizers: Sequence[CLIPTokenizer]
    pictures: PictureReader

    @classmethod
    def load(cls, recipe: Recipe) -> "RowReader":
        """Load what is needed, and no weights but those of the face encoder.

        Raises:
            BaseModelError: Something cannot be found.
        """
        pictures = PictureReader.load(recipe.variant, recipe.image_encoder, recipe.face_encoder, is_xl=recipe.is_xl)
        return cls(recipe, load_tokenizers(recipe.base), pictures)

    def views(self, record: Record, image: Image.Image, shape: Shape, indices: Sequence[int]) -> Views:
        """Some views of the picture to be learnt, which is `image`. Any thread may ask."""
        size, augment = Shape(image.height, image.width), self.recipe.augment
        views = [view_of(record.key, index, size, shape, augment) for index in indices]
        pixels = np.stack([np.asarray(cut(image, view)) for view in views])
        return Views(pixels, np.array([time_ids(size, view) for view in views], np.int32))

    def see(self, record: Record, image: Image.Image) -> SeenPicture:
        """What the variant reads of the picture that `prompting` names, which is `image`. Any thread may ask.

        Raises:
            ImageError: It shows no face and the variant reads one.
        """
        return self.pictures.see(image, prompting(record).name)

    def token_ids(self, record: Record) -> Tensor:
        """Of all captions, int64 [captions, towers * T]."""
        return tokenize(self.tokenizers, record.captions)


def prompting(record: Record) -> Picture:
    """The picture that prompts where the row itself says it, else the one to be learnt."""
    return record.condition or record.image


def normalised(pixels: Tensor) -> Tensor:
    """Uint8 [B, H, W, 3] to what an autoencoder reads, float32 [B, 3, H, W] in [-1, 1]."""
    return pixels.permute(0, 3, 1, 2).float() / 127.5 - 1
