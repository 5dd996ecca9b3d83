"""Training data without a cache: pictures are decoded and encoded whenever a step asks for them."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import repeat
from typing import Literal, NamedTuple

import numpy as np
import torch
from diffusers import AutoencoderKL
from torch import Tensor

from nigaoe.core.base_parts import load_autoencoder
from nigaoe.core.bases import Base, encode_pixels
from nigaoe.core.errors import DataError, ImageError
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from nigaoe.train.config import TrainConfig
from nigaoe.train.preparing.recipe import recipe_of
from nigaoe.train.preparing.rows import RowReader, Views, normalised, prompting
from nigaoe.train.preparing.survey import survey
from nigaoe.train.records.pictures import read_picture
from nigaoe.train.records.record import Record
from nigaoe.train.records.splitting import training_records
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.buckets import Shape, nearest
from nigaoe.train.samples.choices import Choice, People, choose, people_columns
from nigaoe.train.samples.features import (
    PreparedFeatures,
    SeenPicture,
    asks_clip,
    encode_seen,
    features_of_nothing,
    reading,
)
from nigaoe.train.samples.prepared import posterior_samples

DECODERS = 4
"""Threads; Pillow decodes and resizes without holding Python's lock."""


class _Decoded(NamedTuple):
    views: Views
    token_ids: Tensor
    seen: SeenPicture


class OnlineDataset:
    """Rows of a source, in the order and with the draws of `PreparedDataset`, and with its rounding."""

    def __init__(
        self,
        rows: Sequence[Sequence[Record]],
        shapes: Sequence[Shape],
        reader: RowReader,
        image_encoder: ImageEncoder | None,
        vae: AutoencoderKL,
        *,
        reference: Literal["same", "other"],
        face_encoder: str | None,
    ) -> None:
        """`rows` of each bucket, and its shape; `open` reads them."""
        self._rows, self._shapes = rows, shapes
        self._all = [row for bucket in rows for row in bucket]
        self._reader, self._clip, self._vae, self._reference = reader, image_encoder, vae, reference
        columns = people_columns(self._all)
        self._people = People(*(columns[name].__getitem__ for name in People._fields))
        variant = reader.recipe.variant
        nothing = features_of_nothing(variant, image_encoder, reader.pictures.face_encoder)
        self._features = PreparedFeatures(reading(variant), face_encoder, nothing)
        self._pool = ThreadPoolExecutor(DECODERS)

    @classmethod
    def open(cls, config: TrainConfig, base: Base) -> "OnlineDataset":
        """Read the source, and with several aspect ratios the header of every picture.

        Raises:
            ConfigError: The config asks for views or sizes that cannot be.
            DataError: The source is wrong, or a header cannot be read.
        """
        recipe, data = recipe_of(config), config.data
        records = training_records(data)
        rows: list[list[Record]] = [[] for _ in recipe.shapes]
        if len(recipe.shapes) == 1:
            rows[0] = records
        else:
            for record, found in zip(records, survey(records, with_sizes=True), strict=True):
                if found.size is None:
                    raise _unusable(record, found.problem)
                rows[nearest(recipe.shapes, *found.size)].append(record)
        used = [bucket for bucket, members in enumerate(rows) if members]
        return cls(
            [rows[bucket] for bucket in used],
            [recipe.shapes[bucket] for bucket in used],
            RowReader.load(recipe),
            load_image_encoder(recipe.image_encoder, base.device) if asks_clip(recipe.variant) else None,
            # In float32 as the cache is made, whatever the UNet computes in.
            base.vae if base.vae.dtype == torch.float32 else load_autoencoder(recipe.base, base.device),
            reference=data.reference,
            face_encoder=config.face_encoder,
        )

    @property
    def bucket_rows(self) -> Sequence[int]:
        """Rows of each bucket."""
        return [len(rows) for rows in self._rows]

    @property
    def features(self) -> PreparedFeatures:
        """What is read of pictures, and of no picture."""
        return self._features

    def batch(self, bucket: int, rows: Tensor, generators: Sequence[torch.Generator]) -> Batch:
        """See `TrainingData.batch`.

        Raises:
            DataError: A picture cannot be read, or shows no face and the variant reads one.
        """
        records = [self._rows[bucket][row] for row in rows.tolist()]
        shape, factor = self._shapes[bucket], 2 ** (len(self._vae.config.block_out_channels) - 1)
        latent = (int(self._vae.config.latent_channels), shape.height // factor, shape.width // factor)
        choices = [
            choose(generator, len(record.captions), self._reader.recipe.views, latent)
            for record, generator in zip(records, generators, strict=True)
        ]
        decoded = list(
            self._pool.map(self._decode, records, choices, self._prompting(bucket, rows, choices), repeat(shape))
        )
        pixels = torch.from_numpy(np.concatenate([row.views.pixels for row in decoded]))
        mean, logvar = encode_pixels(self._vae, normalised(pixels.to(self._vae.device)))
        features = encode_seen(self._reader.recipe.variant, self._clip, [row.seen for row in decoded])
        return Batch(
            # Rounded as the cache is, so that both train alike.
            latents=posterior_samples(mean.half().cpu(), logvar.half().cpu(), choices),
            features={name: value.float() for name, value in features.items()},
            token_ids=torch.stack([row.token_ids for row in decoded]),
            time_ids=torch.from_numpy(np.concatenate([row.views.time_ids for row in decoded])).float(),
        )

    def keys(self, bucket: int, rows: Tensor) -> list[str]:
        """See `TrainingData.keys`."""
        return [self._rows[bucket][row].key for row in rows.tolist()]

    def _prompting(self, bucket: int, rows: Tensor, choices: Sequence[Choice]) -> list[Record]:
        """The rows whose pictures prompt."""
        numbers = rows.numpy() + sum(self.bucket_rows[:bucket])
        if self._reference == "other":
            numbers = self._people.others(numbers, np.array([choice.reference for choice in choices]))
        return [self._all[number] for number in numbers.tolist()]

    def _decode(self, record: Record, choice: Choice, prompt: Record, shape: Shape) -> _Decoded:
        try:
            image = read_picture(record.image)
            views = self._reader.views(record, image, shape, [choice.view])
            token_ids = self._reader.token_ids(record)[choice.caption]
            shown = image if prompting(prompt) == record.image else read_picture(prompting(prompt))
            return _Decoded(views, token_ids, self._reader.see(prompt, shown))
        except ImageError as error:
            raise _unusable(record, str(error)) from None


def _unusable(record: Record, reason: str | None) -> DataError:
    return DataError(
        f"row {record.key!r} cannot be trained on: {reason}; or have `nigaoe dataset check` list such rows and name "
        f"the list in data.quarantine"
    )
