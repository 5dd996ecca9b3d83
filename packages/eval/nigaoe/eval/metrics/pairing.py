"""The control of every pair metric: mix the pairs up, and the figure must fall.

One that does not says nothing about pairs: they were mixed up all along, the metric is blind, or the pictures have
nothing of what they are paired with. N samples, K wrong partners each.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Bool, Float64, Int64

from nigaoe.core.reports import Estimate
from nigaoe.eval.bootstrap import GroupBootstrap
from nigaoe.eval.metrics.separation import auc

PARTNERS = 16
"""Wrong partners of each sample, at most."""


@dataclass(frozen=True)
class PairControl:
    """What mixing up the pairs does to a metric."""

    name: str
    matched: float
    """Mean over the samples that have a wrong partner."""
    shuffled: float
    auc: float
    """Of right pairs against wrong ones; 1 where right is always the better."""
    gap: Estimate | None
    """By how much right pairs are better than wrong ones, over groups; None without wrong pairs."""
    n_shuffled: int
    """Wrong pairs looked at."""

    @property
    def is_broken(self) -> bool:
        """True unless the gap's whole interval lies above 0: without evidence a metric is not trusted."""
        return self.gap is None or self.gap.low is None or self.gap.low <= 0

    def line(self) -> str:
        """To be printed beside the figure."""
        if self.gap is None:
            return f"{self.name}: BROKEN, there are no wrong pairs to compare with"
        verdict = (
            "BROKEN, it does not fall when pairs are mixed up" if self.is_broken else "falls when pairs are mixed up"
        )
        return f"{self.name}: {verdict} (matched {self.matched:.4f}, shuffled {self.shuffled:.4f}, AUC {self.auc:.4f})"


def wrong_partners(n: int, partners: int = PARTNERS) -> Int64[np.ndarray, "N K"]:
    """For each sample others at fixed distances, spread evenly: no draw, so that every run compares the same pairs."""
    if n < 2:
        return np.zeros((n, 0), np.int64)
    steps = np.unique(np.linspace(1, n - 1, min(partners, n - 1)).round().astype(np.int64))
    return np.asarray((np.arange(n)[:, None] + steps[None]) % n)


def pair_control(
    name: str,
    matched: Float64[np.ndarray, " N"],
    shuffled: Float64[np.ndarray, "N K"],
    groups: Sequence[str],
    higher_is_better: bool = True,
) -> PairControl:
    """Compare right pairs with wrong ones; NaN stands for a pair that is not there."""
    sign = 1.0 if higher_is_better else -1.0
    kept = ~np.isnan(matched) & ~np.isnan(shuffled).all(axis=1)
    right, others = matched[kept], shuffled[kept]
    wrong = others[~np.isnan(others)]
    if len(right) == 0:
        return PairControl(name, _mean(matched), float("nan"), float("nan"), None, 0)
    drops = sign * (right - np.nanmean(others, axis=1))
    kept_groups = [group for group, is_kept in zip(groups, kept, strict=True) if is_kept]
    gap = GroupBootstrap(kept_groups).estimate(drops[:, None])
    return PairControl(name, float(right.mean()), float(wrong.mean()), auc(sign * right, sign * wrong), gap, len(wrong))


def score_wrong(
    score: Callable[[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]], Float64[np.ndarray, " N"]],
    is_wrong: Callable[[Int64[np.ndarray, " N"], Int64[np.ndarray, " N"]], Bool[np.ndarray, " N"]],
    n: int,
) -> Float64[np.ndarray, "N K"]:
    """Scores of each sample with its wrong partners; NaN where the partner is none after all."""
    here, partners = np.arange(n), wrong_partners(n)
    columns = [np.where(is_wrong(here, there), score(here, there), np.nan) for there in partners.T]
    return np.stack(columns, axis=1) if columns else np.zeros((n, 0))


def _mean(values: Float64[np.ndarray, " N"]) -> float:
    scored = values[~np.isnan(values)]
    return float(scored.mean()) if len(scored) else float("nan")
