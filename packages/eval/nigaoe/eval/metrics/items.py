"""What a metric says of each sample: the ground of tables, of bootstraps over references and of paired tests.

N samples, K wrong partners.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from jaxtyping import Float64

from nigaoe.core.errors import DataError
from nigaoe.core.reports import Estimate
from nigaoe.eval.bootstrap import GroupBootstrap


@dataclass(frozen=True, eq=False)
class Items:
    """One value per sample, in the order of the ids."""

    name: str
    """Of the metric."""
    setting: str
    """Name and hash of what it looks through; empty where it looks through nothing."""
    higher_is_better: bool
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """The reference, prompt or person that a sample belongs to: what a bootstrap resamples."""
    values: Float64[np.ndarray, " N"]
    """NaN where there was nothing to score, such as a picture without a face."""
    failed: tuple[str, ...] = ()
    """Samples without a picture to look at; they have no value."""

    @property
    def is_scored(self) -> np.ndarray:
        """Bool [N]."""
        return np.asarray(~np.isnan(self.values))

    @property
    def coverage(self) -> float:
        """Share of all samples, failed ones too, that have a value."""
        expected = len(self.ids) + len(self.failed)
        return float(self.is_scored.sum()) / expected if expected else 0.0

    def mean(self) -> float:
        """Of all samples that have a value; NaN where none has."""
        return float(self.values[self.is_scored].mean()) if self.is_scored.any() else float("nan")

    def estimate(self) -> Estimate:
        """The mean with its 95 % bootstrap interval over groups.

        Raises:
            DataError: No sample has a value.
        """
        kept = self.is_scored
        if not kept.any():
            raise DataError(f"{self.name} has no value for any of {len(self.ids) + len(self.failed)} samples")
        groups = [group for group, is_kept in zip(self.groups, kept, strict=True) if is_kept]
        return GroupBootstrap(groups).estimate(self.values[kept][:, None])

    def rows(self) -> list[dict[str, Any]]:
        """A row per sample for a table; failed samples last, without a value."""
        scored = zip(self.ids, self.groups, self.values.tolist(), strict=True)
        rows = [{"sample": sample, "group": group, self.name: value} for sample, group, value in scored]
        return rows + [{"sample": sample, "group": "", self.name: float("nan")} for sample in self.failed]


def in_order(items: Items, ids: Sequence[str]) -> Float64[np.ndarray, " N"]:
    """Values of the ids asked for."""
    place = {sample: i for i, sample in enumerate(items.ids)}
    return items.values[[place[sample] for sample in ids]]
