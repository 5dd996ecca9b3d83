"""Diversity over seeds: mean distance, 1 - cosine, between the pictures that one prompt and reference were drawn as.

0 to 2, 0 where all seeds give the same picture. Higher is more diverse, which is better only while the pictures stay
true: noise is diverse, too. Mean distance within a condition, as PhotoMaker's Face Div (arXiv 2312.04461), under the
encoder's own name.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nigaoe.core.errors import DataError
from nigaoe.eval.metrics.item_metric import ItemMetric
from nigaoe.eval.metrics.items import Items
from nigaoe.eval.scoring.features import FeatureExtractor, setting_of
from nigaoe.eval.scoring.pictures import Pictures, pictures


class Diversity(ItemMetric):
    """Mean distance within a group, named `<encoder>_diversity`. Its items are groups, not pictures."""

    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(self, encoder: FeatureExtractor, **kwargs: Any) -> None:
        super().__init__(f"{encoder.name}_diversity", setting_of(encoder), **kwargs)
        self.encoder = encoder

    def update(self, images: Pictures, ids: Sequence[str], groups: Sequence[str]) -> None:
        """Look at pictures; `groups`: what seeds have in common, such as 'reference/prompt'.

        Raises:
            ImageError: A picture is refused; give such samples to `fail`.
            DataError: Not as many ids and groups as pictures.
        """
        features = self.encoder.features(pictures(images))
        if not (np.isfinite(features).all() and features.any(axis=1).all()):
            raise DataError(f"{self.name}: an embedding is not finite or all zeros; look at the encoder")
        self._keep(ids, groups, features)

    def items(self) -> Items:
        """One value per group; NaN where a group has one picture only."""
        seen = self._table()
        names, owner = np.unique(np.asarray(seen.groups, dtype=object).astype(str), return_inverse=True)
        values = np.array([_spread(seen.rows[owner == i].astype(np.float64)) for i in range(len(names))])
        groups = tuple(str(name) for name in names)
        return Items(self.name, self.setting, True, groups, groups, values.astype(np.float64), seen.failed)


def _spread(rows: np.ndarray) -> float:
    if len(rows) < 2:
        return float("nan")
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    first, second = np.triu_indices(len(unit), 1)
    return float((1.0 - (unit[first] * unit[second]).sum(axis=1)).mean())
