"""A prepared dataset in memory, and batches drawn from it."""

from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.core.manifests import PreparedManifest, read_prepared


class Batch(NamedTuple):
    """What one training step needs. B rows."""

    latents: Tensor
    """Posterior samples, unscaled, [B, C, h, w]."""
    image_embeds: Tensor
    """Of the reference pictures, [B, E]."""
    token_ids: Tensor
    """int64 [B, T]."""


@dataclass(frozen=True, eq=False)
class PreparedDataset:
    """All shards of a prepared dataset."""

    manifest: PreparedManifest
    columns: dict[str, Tensor]
    first_of_identity: Tensor
    """int64 [identities + 1]: where each identity's rows start in `by_identity`."""
    by_identity: Tensor
    """int64 [N]: rows sorted by identity."""

    @classmethod
    def open(cls, folder: Path) -> "PreparedDataset":
        """Read every shard.

        Raises:
            DataError: No manifest, or a shard is gone.
        """
        manifest = read_prepared(folder)
        gone = [shard.file for shard in manifest.shards if not (folder / shard.file).is_file()]
        if gone:
            raise DataError(f"prepared dataset {str(folder)!r} lacks {gone[0]!r}; run `nigaoe prepare` again")
        parts = [load_file(folder / shard.file) for shard in manifest.shards]
        columns = {key: torch.cat([part[key] for part in parts]) for key in parts[0]}
        identity = columns["identity"]
        counts = torch.bincount(identity, minlength=manifest.identities)
        starts = torch.cat([torch.zeros(1, dtype=torch.long), counts.cumsum(0)])
        return cls(manifest, columns, starts, identity.argsort(stable=True))

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
            image_embeds=self.columns["image_embeds"][prompts],
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
