"""A prepared dataset: batches from shards that stay in their files, however many there are."""

from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from nigaoe.core.adapters.variants import Feature
from nigaoe.core.manifests import PreparedManifest, read_prepared
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.choices import Choice, People, choose, index_name
from nigaoe.train.samples.features import PreparedFeatures, read_features
from nigaoe.train.samples.row_files import RowFile

OPEN_FILES = 128
"""Shards that are kept open; opening one costs less than a tenth of a millisecond where storage is near."""


class PreparedDataset:
    """Rows of a prepared folder. Memory does not grow with it, and any thread may ask."""

    def __init__(
        self,
        folder: Path,
        manifest: PreparedManifest,
        features: PreparedFeatures,
        reference: Literal["same", "other"],
    ) -> None:
        """`open` reads what it needs."""
        self.manifest = manifest
        self._folder, self._features, self._reference = folder, features, reference
        rows = np.array([shard.rows for shard in manifest.shards], np.int64)
        self._starts = rows.cumsum() - rows
        counts = np.array([bucket.rows for bucket in manifest.buckets], np.int64)
        self._first = counts.cumsum() - counts
        self._file = lru_cache(maxsize=OPEN_FILES)(self._open_shard)
        index = RowFile(folder / index_name(manifest.fingerprint))
        self._people = People(*(partial(index.read_many, name) for name in People._fields))

    @classmethod
    def open(cls, folder: Path, reference: Literal["same", "other"] = "same") -> "PreparedDataset":
        """Read the manifest and no shard. `reference`: which picture prompts where the row itself does not say it.

        Raises:
            DataError: No manifest or one of another version, or a file beside the shards is gone.
        """
        manifest = read_prepared(folder)
        return cls(folder, manifest, read_features(folder, manifest.fingerprint), reference)

    @property
    def bucket_rows(self) -> Sequence[int]:
        """Rows of each bucket."""
        return [bucket.rows for bucket in self.manifest.buckets]

    @property
    def features(self) -> PreparedFeatures:
        """What is read of pictures, and of no picture."""
        return self._features

    def batch(self, bucket: int, rows: Tensor, generators: Sequence[torch.Generator]) -> Batch:
        """See `TrainingData.batch`.

        Raises:
            DataError: A shard is gone or damaged.
        """
        numbers = self._first[bucket] + rows.numpy()
        places = self._places(numbers)
        file, _ = places[0]
        shape = file.shape("latent_mean")[2:]
        mean, logvar = (np.empty((len(places), *shape), np.float16) for _ in range(2))
        token_ids = np.empty((len(places), *file.shape("token_ids")[2:]), np.int32)
        time_ids = np.empty((len(places), 6), np.int32)
        choices = []
        for i, ((file, row), generator) in enumerate(zip(places, generators, strict=True)):
            choice = choose(generator, int(file.read("num_captions", row)), self.manifest.views, shape)
            file.read("token_ids", row, choice.caption, out=token_ids[i])
            file.read("latent_mean", row, choice.view, out=mean[i])
            file.read("latent_logvar", row, choice.view, out=logvar[i])
            file.read("time_ids", row, choice.view, out=time_ids[i])
            choices.append(choice)
        return Batch(
            latents=posterior_samples(torch.from_numpy(mean), torch.from_numpy(logvar), choices),
            features=self._prompts(numbers, choices),
            token_ids=torch.from_numpy(token_ids).long(),
            time_ids=torch.from_numpy(time_ids).float(),
        )

    def keys(self, bucket: int, rows: Tensor) -> list[str]:
        """See `TrainingData.keys`."""
        return [_key(file, row) for file, row in self._places(self._first[bucket] + rows.numpy())]

    def _prompts(self, numbers: np.ndarray, choices: Sequence[Choice]) -> dict[Feature, Tensor]:
        if self._reference == "other":
            numbers = self._people.others(numbers, np.array([choice.reference for choice in choices]))
        places = self._places(numbers)
        features: dict[Feature, Tensor] = {}
        for name in self._features.unconditional:
            file, _ = places[0]
            column = np.empty((len(places), *file.shape(name)[1:]), file.dtype(name))
            for i, (file, row) in enumerate(places):
                file.read(name, row, out=column[i])
            features[name] = torch.from_numpy(column).float()
        return features

    def _places(self, numbers: np.ndarray) -> list[tuple[RowFile, int]]:
        """File and row in it of rows of the dataset."""
        shards = np.searchsorted(self._starts, numbers, side="right") - 1
        inside = numbers - self._starts[shards]
        return [(self._file(shard), row) for shard, row in zip(shards.tolist(), inside.tolist(), strict=True)]

    def _open_shard(self, number: int) -> RowFile:
        return RowFile(self._folder / self.manifest.shards[number].file)


def posterior_samples(mean: Tensor, logvar: Tensor, choices: Sequence[Choice]) -> Tensor:
    """Float16 moments [B, C, h, w] to samples, float32."""
    noise = torch.stack([choice.noise for choice in choices])
    return mean.float() + (0.5 * logvar.float()).exp() * noise


def _key(file: RowFile, row: int) -> str:
    start = int(file.read("key_ends", row - 1)) if row else 0
    end = int(file.read("key_ends", row))
    return bytes(file.read_many("keys", np.arange(start, end))).decode()
