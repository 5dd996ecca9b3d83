"""Is one system better than another? Both drew the same samples, and those of one reference hang together.

The interval is a paired bootstrap over groups, p a sign-flip permutation test on the groups' summed differences
(Fisher 1935): exact up to 12 groups, beyond that drawn with a fixed seed, and never 0.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float64

from nigaoe.core.errors import DataError
from nigaoe.core.reports import Estimate
from nigaoe.eval.bootstrap import GroupBootstrap, units_of
from nigaoe.eval.metrics.items import Items, in_order

FLIPS = 10_000
LEVEL = 0.05
"""p above which a difference is none."""
_EXACT = 12
_SEED = 19350101


@dataclass(frozen=True)
class Comparison:
    """The second system less the first."""

    name: str
    difference: Estimate
    p: float
    """Two-sided: how often systems that do not differ would differ by as much."""
    n_groups: int
    left_out: int
    """Samples that either system has no value for."""
    second_is_better: bool | None
    """None: the interval holds 0, or p is above .05: they cannot be told apart."""


def compare(first: Items, second: Items) -> Comparison:
    """Compare two systems on the same samples.

    Raises:
        DataError: Other samples, another metric, other weights, or no sample that both have a value for.
    """
    if (first.name, first.setting) != (second.name, second.setting):
        raise DataError(
            f"{first.name!r} by {first.setting!r} and {second.name!r} by {second.setting!r} are not comparable; "
            "score both systems through the same weights"
        )
    everything = set(first.ids) | set(first.failed)
    if everything != set(second.ids) | set(second.failed):
        apart = sorted(everything ^ (set(second.ids) | set(second.failed)))
        raise DataError(f"the systems drew other samples, such as {apart[0]!r}; give both the same ones")
    shared = sorted(set(first.ids) & set(second.ids))
    groups = dict(zip(first.ids, first.groups, strict=True))
    others = dict(zip(second.ids, second.groups, strict=True))
    if any(groups[sample] != others[sample] for sample in shared):
        raise DataError("a sample belongs to another group in each system; name groups after references")
    differences = in_order(second, shared) - in_order(first, shared)
    kept = ~np.isnan(differences)
    if not kept.any():
        raise DataError(f"no sample has a value of {first.name!r} in both systems")
    owners = [groups[sample] for sample, is_kept in zip(shared, kept, strict=True) if is_kept]
    difference = GroupBootstrap(owners).estimate(differences[kept][:, None])
    p = sign_flip_p(differences[kept], owners)
    return Comparison(
        name=first.name,
        difference=difference,
        p=p,
        n_groups=len(set(owners)),
        left_out=len(everything) - int(kept.sum()),
        second_is_better=_verdict(difference, p, first.higher_is_better),
    )


def sign_flip_p(differences: Float64[np.ndarray, " N"], groups: Sequence[str]) -> float:
    """Two-sided p of the sign-flip permutation test; all differences of a group change sign together."""
    # Bundles of groups may change sign as well as groups may.
    sums = np.bincount(units_of(groups), weights=differences)
    observed = abs(sums.sum())
    # Sums of the same numbers in another order differ in their last bits.
    bound = observed - 1e-12 * np.abs(sums).sum()
    if len(sums) <= _EXACT:
        signs = 1.0 - 2.0 * ((np.arange(2 ** len(sums))[:, None] >> np.arange(len(sums))) & 1)
        return float((np.abs((signs * sums).sum(axis=1)) >= bound).mean())
    rng, reached = np.random.default_rng(_SEED), 0
    for _ in range(FLIPS // 100):
        signs = rng.choice([-1.0, 1.0], size=(100, len(sums)))
        reached += int((np.abs((signs * sums).sum(axis=1)) >= bound).sum())
    return (1 + reached) / (1 + FLIPS)


def _verdict(difference: Estimate, p: float, higher_is_better: bool) -> bool | None:
    assert difference.low is not None
    assert difference.high is not None
    # The bootstrap of a few groups is far too sure of itself: fewer than six never reach the level.
    if difference.low <= 0 <= difference.high or p > LEVEL:
        return None
    return (difference.value > 0) == higher_is_better
