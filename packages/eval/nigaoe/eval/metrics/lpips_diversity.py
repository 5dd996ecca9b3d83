"""LPIPS diversity over seeds: mean LPIPS between the pictures that one prompt and reference were drawn as.

From 0, where all seeds give the same picture; higher is more diverse, better only while the pictures stay true. As in
BicycleGAN (arXiv 1711.11586). Needs LPIPS' own weights, see `nigaoe.eval.scoring.lpips`.
"""

from itertools import combinations
from typing import Any

import numpy as np

from nigaoe.eval.metrics.item_metric import ItemMetric
from nigaoe.eval.metrics.items import Items
from nigaoe.eval.scoring.features import setting_of
from nigaoe.eval.scoring.lpips import Lpips
from nigaoe.eval.scoring.pictures import Pictures, pictures


class LpipsDiversity(ItemMetric):
    """Mean LPIPS within a group. Its items are groups, not pictures."""

    higher_is_better = True
    plot_lower_bound = 0.0

    def __init__(self, lpips: Lpips, **kwargs: Any) -> None:
        super().__init__(f"{lpips.name}_diversity", setting_of(lpips), **kwargs)
        self.lpips = lpips

    def update(self, images: Pictures, group: str) -> None:
        """Look at all pictures of one group: they are compared now, and not kept.

        Raises:
            ImageError: A picture is refused, or they differ in size.
        """
        pairs = list(combinations(pictures(images), 2))
        distances = self.lpips.distances([a for a, _ in pairs], [b for _, b in pairs]) if pairs else np.array([np.nan])
        self._keep([group], [group], np.array([[distances.mean()]]))

    def items(self) -> Items:
        seen = self._table()
        values = seen.rows.reshape(-1).astype(np.float64)
        return Items(self.name, self.setting, True, seen.ids, seen.groups, values, seen.failed)
