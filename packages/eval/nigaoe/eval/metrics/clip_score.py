"""CLIPScore: 2.5 max(cos, 0) of picture and caption (Hessel et al. 2021, arXiv 2104.08718, sec. 3), 0 to 2.5.

Higher is better. The floor is each sample's own: taken of the mean instead, as torchmetrics does, bad pictures cancel
good ones. With weight 100 it is the figure that torchmetrics calls CLIPScore, 0 to 100, and goes by another name here.
"""

from typing import Any

import numpy as np
from jaxtyping import Float64

from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.scoring.features import TextImageEncoder

HESSEL = 2.5
"""w of the paper."""


class ClipScore(ClipT):
    """`weight * max(cos, 0)`, per sample; `clip_score`, or `clip_score_100` with that weight."""

    plot_lower_bound = 0.0
    plot_upper_bound = None

    def __init__(self, encoder: TextImageEncoder, weight: float = HESSEL, **kwargs: Any) -> None:
        """`weight`: 2.5 as in the paper, or 100."""
        suffix = "" if weight == HESSEL else f"_{weight:g}"
        super().__init__(encoder, f"{encoder.name}_score{suffix}", **kwargs)
        self.weight = weight

    def _figure(self, cosine: Float64[np.ndarray, " N"]) -> Float64[np.ndarray, " N"]:
        return np.asarray(self.weight * np.maximum(cosine, 0.0))
