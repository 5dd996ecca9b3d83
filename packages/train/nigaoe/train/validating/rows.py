"""Held-out rows as a loss reads them: always the same ones, in the same order, cut and captioned the same way."""

from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from nigaoe.core.bases import Base
from nigaoe.core.errors import ImageError
from nigaoe.train.config import DataConfig
from nigaoe.train.preparing.rows import RowReader, Views, normalised, prompting
from nigaoe.train.records.pictures import read_picture
from nigaoe.train.records.record import Record
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.buckets import Shape, nearest
from nigaoe.train.samples.features import FeatureEncoder, SeenPicture
from nigaoe.train.samples.sampler import seed_of

ROWS_AT_ONCE = 8


class DecodedRow(NamedTuple):
    """A row before the encoders."""

    key: str
    shape: Shape
    views: Views
    """One of them."""
    token_ids: Tensor
    """Of its first caption, int64 [towers * T]."""
    seen: SeenPicture
    """Of the picture that prompts."""


def in_fixed_order(records: Sequence[Record], seed: int) -> list[Record]:
    """Shuffled by a hash of their keys: rows that come or go move no others."""
    return sorted(records, key=lambda record: seed_of("held out", seed, record.key))


def decode_rows(ordered: Sequence[Record], count: int, reader: RowReader, data: DataConfig) -> list[DecodedRow]:
    """The first `count` rows that can be read; those that cannot are passed over."""
    found: list[DecodedRow] = []
    for record in ordered:
        if len(found) == count:
            break
        try:
            found.append(_decode(record, _prompting(record, ordered, data), reader))
        except ImageError:
            continue
    return found


def _prompting(record: Record, ordered: Sequence[Record], data: DataConfig) -> Record:
    """The row whose picture prompts: for `other` the next one of the identity, which is fixed where training draws."""
    if data.reference == "same" or record.condition is not None:
        return record
    own = [other for other in ordered if other.identity == record.identity]
    return own[(own.index(record) + 1) % len(own)]


def _decode(record: Record, prompt: Record, reader: RowReader) -> DecodedRow:
    image = read_picture(record.image)
    shapes = reader.recipe.shapes
    shape = shapes[nearest(shapes, image.height, image.width)]
    shown = image if prompting(prompt) == record.image else read_picture(prompting(prompt))
    return DecodedRow(
        record.key,
        shape,
        reader.views(record, image, shape, [0]),
        reader.token_ids(record)[0],
        reader.see(prompt, shown),
    )


def batches(rows: Sequence[DecodedRow], base: Base, encoder: FeatureEncoder) -> Iterator[tuple[list[str], Batch]]:
    """(keys, batch) of rows of one shape each; latents are the means of their posteriors."""
    for _, of_shape in groupby(sorted(rows, key=lambda row: row.shape), key=lambda row: row.shape):
        members = list(of_shape)
        for start in range(0, len(members), ROWS_AT_ONCE):
            part = members[start : start + ROWS_AT_ONCE]
            pixels = torch.from_numpy(np.concatenate([row.views.pixels for row in part]))
            mean, _ = base.encode_images(normalised(pixels))
            features = encoder.encode([row.seen for row in part])
            batch = Batch(
                latents=mean,
                features={name: value.float() for name, value in features.items()},
                token_ids=torch.stack([row.token_ids for row in part]),
                time_ids=torch.from_numpy(np.concatenate([row.views.time_ids for row in part])).float(),
            )
            yield [row.key for row in part], batch
