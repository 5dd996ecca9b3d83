"""What a training step reads, and who gives it: a prepared dataset or one that is encoded on the fly."""

from collections.abc import Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from nigaoe.core.adapters.variants import Feature
from nigaoe.train.samples.features import PreparedFeatures


class Batch(NamedTuple):
    """B samples, on the CPU."""

    latents: Tensor
    """Posterior samples, unscaled, float32 [B, C, h, w]."""
    features: dict[Feature, Tensor]
    """Of the pictures that prompt, float32 [B, ...]."""
    token_ids: Tensor
    """int64 [B, towers * T]."""
    time_ids: Tensor
    """Original height and width, top and left of the crop, height and width of the target, px, float32 [B, 6]; SDXL
    alone reads them."""


class TrainingData(Protocol):
    """Rows in buckets; the pictures of a bucket have one shape, so that batches are of one bucket."""

    @property
    def bucket_rows(self) -> Sequence[int]:
        """Rows of each bucket."""

    @property
    def features(self) -> PreparedFeatures:
        """What is read of pictures, and of no picture."""

    def batch(self, bucket: int, rows: Tensor, generators: Sequence[torch.Generator]) -> Batch:
        """Rows [B] of a bucket; caption, view, posterior sample and reference of each from a generator of its own.

        So a sample does not depend on what else is in the batch, nor on which worker computes it.
        """

    def keys(self, bucket: int, rows: Tensor) -> list[str]:
        """Names of the rows, for messages."""
