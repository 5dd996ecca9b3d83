"""A prepared dataset, and batches drawn from it."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from nigaoe.core.adapters.variants import Feature
from nigaoe.core.errors import DataError
from nigaoe.core.manifests import PreparedManifest, read_prepared
from nigaoe.train.features import COLUMNS, PreparedFeatures, read_features


class Batch(NamedTuple):
    """What one training step needs. B rows."""

    latents: Tensor
    """Posterior samples, unscaled, [B, C, h, w]."""
    features: dict[Feature, Tensor]
    """Of the reference pictures, float32 [B, ...]."""
    token_ids: Tensor
    """int64 [B, T]."""


@dataclass(frozen=True, eq=False)
class ShardedRows:
    """A column that stays in its files, which are mapped: hidden states of many pictures fit no memory."""

    shards: Sequence[Tensor]
    """[n, ...] each."""
    starts: Tensor
    """int64 [shards]: the first row of each."""

    @classmethod
    def of(cls, shards: Sequence[Tensor]) -> "ShardedRows":
        """Shards in order."""
        lengths = torch.tensor([len(shard) for shard in shards])
        return cls(shards, lengths.cumsum(0) - lengths)

    def at(self, rows: Tensor) -> Tensor:
        """Rows [B], float32 [B, ...]."""
        shard = torch.bucketize(rows, self.starts[1:], right=True)
        inside = rows - self.starts[shard]
        pairs = zip(shard.tolist(), inside.tolist(), strict=True)
        return torch.stack([self.shards[i][j] for i, j in pairs]).float()


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """All shards of a prepared dataset."""

    manifest: PreparedManifest
    features: PreparedFeatures
    prompts: dict[Feature, ShardedRows]
    """What the adapter reads of each picture."""
    columns: dict[str, Tensor]
    """All the rest, in memory."""
    first_of_identity: Tensor
    """int64 [identities + 1]: where each identity's rows start in `by_identity`."""
    by_identity: Tensor
    """int64 [N]: rows sorted by identity."""

    @classmethod
    def open(cls, folder: Path) -> "PreparedDataset":
        """Read every shard.

        Raises:
            DataError: No manifest, or a file that it speaks of is gone.
        """
        manifest = read_prepared(folder)
        features = read_features(folder, manifest.fingerprint)
        gone = [shard.file for shard in manifest.shards if not (folder / shard.file).is_file()]
        if gone:
            raise DataError(f"prepared dataset {str(folder)!r} lacks {gone[0]!r}; run `nigaoe prepare` again")
        parts = [load_file(folder / shard.file) for shard in manifest.shards]
        prompts = {name: ShardedRows.of([part.pop(COLUMNS[name]) for part in parts]) for name in features.unconditional}
        columns = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        identity = columns["identity"]
        counts = torch.bincount(identity, minlength=manifest.identities)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return cls(manifest, features, prompts, columns, starts, identity.argsort(stable=True))

    def batch(self, rows: Tensor, reference: str, generator: torch.Generator) -> Batch:
        """Draw a caption, a posterior sample and a reference picture for each row [B]."""
        n = len(rows)
        captions = self.columns["num_captions"][rows]
        which = (torch.rand(n, generator=generator) * captions).long()
        mean, logvar = self.columns["latent_mean"][rows].float(), self.columns["latent_logvar"][rows].float()
        noise = torch.randn(mean.shape, generator=generator)
        drawn = torch.rand(n, generator=generator)
        prompts = self._others(rows, drawn) if reference == "other" else rows
        return Batch(
            latents=mean + (0.5 * logvar).exp() * noise,
            features={name: column.at(prompts) for name, column in self.prompts.items()},
            token_ids=self.columns["token_ids"][rows, which].long(),
        )

    def _others(self, rows: Tensor, drawn: Tensor) -> Tensor:
        """For each row another row of its identity, or itself if it is the only one."""
        identity = self.columns["identity"][rows]
        start, count = (
            self.first_of_identity[identity],
            self.first_of_identity[identity + 1] - self.first_of_identity[identity],
        )
        others = (count - 1).clamp(min=1)
        candidate = self.by_identity[start + torch.minimum((drawn * others).long(), others - 1)]
        last = self.by_identity[start + count - 1]
        # The last of the identity stands in wherever the row drew itself: every other row is equally likely.
        return torch.where(candidate == rows, last, candidate)
