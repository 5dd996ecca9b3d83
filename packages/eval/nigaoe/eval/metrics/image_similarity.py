"""CLIP-I, DINO-I and the like: does a picture look like its reference? Cosine of two image embeddings, -1 to 1.

Higher is nearer, which need not be better: a copy of the reference has 1. With CLIP it is CLIP-I (IP-Adapter,
arXiv 2308.06721), with DINO's class token DINO-I (DreamBooth, arXiv 2208.12242); the figure has the encoder's own name,
for another encoder's cosine is another figure. It is no measure of identity: see `face_identity`.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.embedding_pairs import EmbeddingPairMetric
from nigaoe.eval.scoring.features import FeatureExtractor, setting_of
from nigaoe.eval.scoring.pictures import Pictures, pictures


class ImageSimilarity(EmbeddingPairMetric):
    """Cosine of picture and reference, named `<encoder>_i`."""

    plot_lower_bound = -1.0
    plot_upper_bound = 1.0

    def __init__(self, encoder: FeatureExtractor, **kwargs: Any) -> None:
        """`encoder`: `ClipScorer` for CLIP-I, `ClassTokenEncoder` for DINO-I, or any other."""
        super().__init__(f"{encoder.name}_i", setting_of(encoder), **kwargs)
        self.encoder = encoder

    def update(
        self, images: Pictures, references: Pictures, ids: Sequence[str], groups: Sequence[str] | None = None
    ) -> None:
        """Score pictures against their references; `groups`: whose reference it is, the sample itself by default.

        Raises:
            ImageError: A picture is refused; give such samples to `fail`.
            DataError: Not as many references and ids as pictures.
        """
        seen, wanted = pictures(images), pictures(references)
        if not len(seen) == len(wanted) == len(ids):
            raise DataError(f"{len(seen)} pictures, {len(wanted)} references, {len(ids)} ids were given; give as many")
        self._keep_pairs(ids, groups, self.encoder.features(seen), self.encoder.features(wanted))

    def _is_other(self, groups: np.ndarray, others: np.ndarray) -> Bool[np.ndarray, " N"]:
        return np.asarray(groups != others)
