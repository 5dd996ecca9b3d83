"""SSIM of picture and reference, pixel by pixel (Wang et al. 2004), -1 to 1, higher is nearer.

Gaussian window of 11 px and sigma 1.5, per RGB channel, float64. The border is reflected, as torchmetrics does it;
Wang's own code leaves it out. The range of the pixels is always 1; left open in torchmetrics it is each batch's own.
For copies and reconstructions: a likeness in another pose has no use for it.

H, W pixels, C channels.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Float64
from PIL import Image
from scipy.ndimage import correlate1d

from nigaoe.core.errors import DataError, ImageError
from nigaoe.eval.metrics.item_metric import ItemMetric
from nigaoe.eval.metrics.items import Items
from nigaoe.eval.metrics.pairing import PairControl, pair_control
from nigaoe.eval.scoring.pictures import Pictures, pictures

WINDOW = 11
"""Side of the window in pixels."""

_K1, _K2, _SIGMA = 0.01, 0.03, 1.5
_TAPS = np.exp(-((np.arange(WINDOW) - WINDOW // 2) ** 2) / (2 * _SIGMA**2))


class Ssim(ItemMetric):
    """Structural similarity; pictures must be as large as their references."""

    higher_is_better = True
    plot_upper_bound = 1.0
    min_side = WINDOW

    def __init__(self, name: str = "ssim", **kwargs: Any) -> None:
        super().__init__(name, **kwargs)

    def update(
        self,
        images: Pictures,
        references: Pictures,
        ids: Sequence[str],
        groups: Sequence[str] | None = None,
        wrong: Pictures | None = None,
    ) -> None:
        """Score pictures against their references.

        Args:
            images: Pictures.
            references: As large as the pictures.
            ids: Of the samples.
            groups: Whose reference it is; the sample itself by default.
            wrong: References of others, for the control; by default the batch's next one of another group, if any.

        Raises:
            ImageError: A picture is refused, too small or of another size than its reference.
            DataError: Not as many references and ids as pictures.
        """
        seen, wanted = pictures(images), pictures(references)
        if not len(seen) == len(wanted) == len(ids):
            raise DataError(f"{len(seen)} pictures, {len(wanted)} references, {len(ids)} ids were given; give as many")
        others = pictures(wrong) if wrong is not None else _next_others(wanted, ids if groups is None else groups)
        if len(others) != len(seen):
            raise DataError(f"{len(seen)} pictures and {len(others)} wrong references were given; give as many")
        rows = [
            (self._compare(image, reference), np.nan if other is None else self._compare(image, other))
            for image, reference, other in zip(seen, wanted, others, strict=True)
        ]
        self._keep(ids, groups, np.array(rows, dtype=np.float64))

    def items(self) -> Items:
        seen = self._table()
        values = seen.rows[:, 0].astype(np.float64) if len(seen.rows) else np.zeros(0)
        return Items(self.name, self.setting, True, seen.ids, seen.groups, values, seen.failed)

    def control(self) -> PairControl:
        """The same figure against somebody else's reference."""
        seen = self._table()
        rows: Float64[np.ndarray, "N 2"] = seen.rows.reshape(-1, 2).astype(np.float64)
        return pair_control(self.name, rows[:, 0], rows[:, 1:], seen.groups)

    def _compare(self, image: Image.Image, reference: Image.Image) -> float:
        if image.size != reference.size:
            raise ImageError(
                f"{self.name}: a picture of {image.width}x{image.height} px has a reference of "
                f"{reference.width}x{reference.height} px; bring both to one size"
            )
        if min(image.size) < self.min_side:
            raise ImageError(self._too_small(image))
        return self._score(np.asarray(image, np.float64) / 255, np.asarray(reference, np.float64) / 255)

    def _too_small(self, image: Image.Image) -> str:
        return f"{self.name} needs pictures of {self.min_side} px and more, one has {image.width}x{image.height}"

    def _score(self, image: Float64[np.ndarray, "H W C"], reference: Float64[np.ndarray, "H W C"]) -> float:
        """Similarity of two pictures in [0, 1]."""
        return float(similarity_maps(image, reference)[0].mean())


def similarity_maps(
    x: Float64[np.ndarray, "H W C"], y: Float64[np.ndarray, "H W C"]
) -> tuple[Float64[np.ndarray, "H W C"], Float64[np.ndarray, "H W C"]]:
    """SSIM around every pixel, and of its factors the one of contrast and structure (eq. 13; c1 and c2 for range 1)."""
    c1, c2 = _K1**2, _K2**2
    mu_x, mu_y = _local_mean(x), _local_mean(y)
    # Rounding takes the variance of a flat patch below 0.
    var_x = np.maximum(_local_mean(x * x) - mu_x**2, 0.0)
    var_y = np.maximum(_local_mean(y * y) - mu_y**2, 0.0)
    covariance = _local_mean(x * y) - mu_x * mu_y
    contrast = (2 * covariance + c2) / (var_x + var_y + c2)
    return (2 * mu_x * mu_y + c1) / (mu_x**2 + mu_y**2 + c1) * contrast, contrast


def _local_mean(z: Float64[np.ndarray, "H W C"]) -> Float64[np.ndarray, "H W C"]:
    taps = _TAPS / _TAPS.sum()
    return np.asarray(correlate1d(correlate1d(z, taps, axis=0, mode="mirror"), taps, axis=1, mode="mirror"))


def _next_others(references: list[Image.Image], groups: Sequence[str]) -> list[Image.Image | None]:
    """For each sample the batch's next reference of another group and the same size."""
    n, others = len(references), []
    for i, (reference, group) in enumerate(zip(references, groups, strict=True)):
        following = ((i + step) % n for step in range(1, n))
        fits = (j for j in following if groups[j] != group and references[j].size == reference.size)
        there = next(fits, None)
        others.append(None if there is None else references[there])
    return others
