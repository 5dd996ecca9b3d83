"""Face identity: is it the person of the reference, in whatever style? By a named face recogniser.

A recogniser's raw cosine says little across styles: dlib gives strangers .86. So each picture is compared with the
reference of its own person and with those of others, and the figures are how well the two come apart: AUC among the
faces found, where 0.5 is chance, and the share of *all* pictures recognised at a rate of false alarms; 0 to 1, higher
is better. A picture without a face is not recognised, and the rates of detection stand beside. Styles need thresholds
of their own: one metric per style. A copy of the reference is recognised, too: look at `ssim` beside it.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64
from torch import Tensor

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.embedding_pairs import EmbeddingPairMetric
from nigaoe.eval.metrics.item_metric import Seen
from nigaoe.eval.metrics.separation import auc, tpr_at_fpr
from nigaoe.eval.scoring.faces import Faces
from nigaoe.eval.scoring.features import setting_of
from nigaoe.eval.scoring.pictures import Pictures, pictures


class FaceIdentity(EmbeddingPairMetric):
    """Recognition against impostors, named `face_<encoder>`. Its items are raw cosines, NaN without a face."""

    plot_lower_bound = 0.0
    plot_upper_bound = 1.0

    def __init__(self, scorer: Faces, fpr: float = 0.01, **kwargs: Any) -> None:
        """`fpr`: the rate of false alarms, which needs 1 / fpr wrong pairs or more."""
        super().__init__(f"face_{scorer.name}", setting_of(scorer), **kwargs)
        self.scorer, self.fpr = scorer, fpr

    def update(self, images: Pictures, references: Pictures, ids: Sequence[str], groups: Sequence[str]) -> None:
        """Look for the person of each reference; `groups`: who that is.

        Raises:
            ImageError: A picture is refused; give such samples to `fail`.
            DataError: Not as many references, ids and groups as pictures.
        """
        seen, wanted = pictures(images), pictures(references)
        if not len(seen) == len(wanted) == len(ids):
            raise DataError(f"{len(seen)} pictures, {len(wanted)} references, {len(ids)} ids were given; give as many")
        sides = [np.stack([self._look(image) for image in side]) for side in (seen, wanted)]
        self._keep(ids, groups, np.concatenate(sides, axis=1))

    def compute(self) -> dict[str, Tensor]:
        """Figures by name, float64; NaN where there are too few pairs to tell."""
        seen, matched, shuffled = self._scores()
        right, wrong = (side[~np.isnan(side)] for side in (matched, shuffled))
        is_face, is_reference = _found(seen)
        # A picture without a face is recognised by nobody. Where the reference has none, nothing can be asked.
        asked = np.where(is_face, matched, -np.inf)[is_reference]
        figures = {
            "auc": auc(right, wrong),
            f"tpr_at_fpr_{self.fpr:g}": tpr_at_fpr(asked, wrong, self.fpr),
            "detected": float(is_face.sum()) / max(1, len(seen.ids) + len(seen.failed)),
            "references_detected": float(is_reference.mean()) if len(seen.ids) else float("nan"),
            "coverage": self.items().coverage,
            "cosine": float(right.mean()) if len(right) else float("nan"),
            "impostor_cosine": float(wrong.mean()) if len(wrong) else float("nan"),
        }
        return {f"{self.name}_{key}": torch.tensor(value, dtype=torch.float64) for key, value in figures.items()}

    def _look(self, image: Any) -> Float32[np.ndarray, " I"]:
        identity = self.scorer.identity(image)
        return np.full(self.scorer.encoder.dim, np.nan, np.float32) if identity is None else identity

    def _is_other(self, groups: np.ndarray, others: np.ndarray) -> Bool[np.ndarray, " N"]:
        return np.asarray(groups != others)


def _found(seen: Seen) -> tuple[Bool[np.ndarray, " N"], Bool[np.ndarray, " N"]]:
    """Which pictures, and which references, have a face."""
    if not seen.ids:
        return np.zeros(0, bool), np.zeros(0, bool)
    is_found: Float64[np.ndarray, "N W"] = ~np.isnan(seen.rows)
    return is_found[:, 0], is_found[:, -1]
