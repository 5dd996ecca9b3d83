"""A row per sample: what each metric says of it, in the order of the protocol.

N samples.
"""

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from nigaoe.core.errors import DataError
from nigaoe.core.reports import Metric
from nigaoe.eval.metrics.items import Items

WRONG = "~wrong"
"""Ends the name of a column with a number: the same figure against somebody else's reference, or other words."""


@dataclass(frozen=True, eq=False)
class SampleTable:
    """Figures by name for all samples of a cell; NaN where there was nothing to score."""

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    """Whose reference it is: what a bootstrap resamples."""
    columns: dict[str, Float64[np.ndarray, " N"]]
    failed: dict[str, str]
    """Samples without a picture to look at, and why; their figures are NaN."""

    def items(self, name: str, metric: Metric) -> Items:
        """One figure as the tests and bootstraps of `metrics` take it.

        Raises:
            DataError: There is no such column.
        """
        if name not in self.columns:
            raise DataError(f"no sample has a figure {name!r}; there are: {', '.join(self.names)}")
        order = np.argsort(np.array(self.ids, dtype=object).astype(str), kind="stable")
        kept = [int(i) for i in order if self.ids[i] not in self.failed]
        return Items(
            name=name,
            setting=metric.setting,
            higher_is_better=metric.higher_is_better is not False,
            ids=tuple(self.ids[i] for i in kept),
            groups=tuple(self.groups[i] for i in kept),
            values=self.columns[name][kept],
            failed=tuple(sorted(self.failed)),
        )

    @property
    def names(self) -> list[str]:
        """Of the figures, without those of wrong pairs."""
        return [name for name in self.columns if WRONG not in name]

    def wrong(self, name: str) -> Float64[np.ndarray, "N K"]:
        """The same figure of K wrong pairs each; no column where there are none."""
        columns = [values for key, values in self.columns.items() if key.startswith(f"{name}{WRONG}")]
        return np.stack(columns, axis=1) if columns else np.zeros((len(self.ids), 0))
