"""CLIP-T: does a picture show what its prompt says? Raw cosine of their CLIP embeddings, -1 to 1, higher is better.

As IP-Adapter (arXiv 2308.06721) and DreamBooth (arXiv 2208.12242) report it, without their factors; `clip_score` has
those. Texts of more than the tokens a CLIP reads are cut before their end token, as CLIP was trained, and counted.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.embedding_pairs import EmbeddingPairMetric
from nigaoe.eval.scoring.features import TextImageEncoder, setting_of
from nigaoe.eval.scoring.pictures import Pictures, pictures


class ClipT(EmbeddingPairMetric):
    """Raw cosine of picture and prompt."""

    plot_lower_bound: float | None = -1.0
    plot_upper_bound: float | None = 1.0

    def __init__(self, encoder: TextImageEncoder, name: str | None = None, **kwargs: Any) -> None:
        """`name`: of the figure; `<encoder>_t` by default."""
        super().__init__(name or f"{encoder.name}_t", setting_of(encoder), **kwargs)
        self.encoder = encoder

    def update(
        self, images: Pictures, prompts: Sequence[str], ids: Sequence[str], groups: Sequence[str] | None = None
    ) -> None:
        """Score pictures against their prompts; `groups`: the reference of each, the sample itself by default.

        Raises:
            ImageError: A picture is refused; give such samples to `fail`.
            DataError: Not as many prompts and ids as pictures.
        """
        seen = pictures(images)
        if not len(seen) == len(prompts) == len(ids):
            raise DataError(f"{len(seen)} pictures, {len(prompts)} prompts and {len(ids)} ids were given; give as many")
        embedded = self.encoder.features(seen), self.encoder.text_features(prompts)
        self._keep_pairs(ids, groups, *embedded, self.encoder.are_cut(prompts)[:, None])

    def num_cut(self) -> int:
        """Samples whose prompt was longer than what is read of it."""
        rows = self._table().rows
        return int(rows[:, -1].sum()) if len(rows) else 0

    def _is_other(self, groups: np.ndarray, others: np.ndarray) -> Bool[np.ndarray, " N"]:
        # Another prompt to the same reference is a wrong one as well.
        return np.ones(len(groups), bool)
