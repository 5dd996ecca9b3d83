"""How well a score tells one kind of pair from another: AUC, and the share recognised at a rate of false alarms.

AUC is the chance that a right pair scores above a wrong one, ties counting half (Hanley & McNeil 1982); 0 to 1, 0.5 is
blind, higher is better.
"""

import numpy as np
from jaxtyping import Float64


def auc(right: Float64[np.ndarray, " N"], wrong: Float64[np.ndarray, " M"]) -> float:
    """Area under the ROC curve; NaN where either side is empty. -inf is below everything."""
    if len(right) == 0 or len(wrong) == 0:
        return float("nan")
    ordered = np.sort(wrong)
    below, up_to = (np.searchsorted(ordered, right, side=side) for side in ("left", "right"))
    return float((below + up_to).sum() / (2 * len(right) * len(wrong)))


def tpr_at_fpr(right: Float64[np.ndarray, " N"], wrong: Float64[np.ndarray, " M"], fpr: float) -> float:
    """Share of right pairs above the lowest threshold that at most `fpr` of the wrong pairs pass.

    NaN where there are too few wrong pairs to see such a rate, fewer than 1 / fpr, or no right ones.
    """
    if not 0 < fpr < 1:
        raise ValueError(f"a false positive rate of {fpr!r} is outside (0, 1)")
    if len(right) == 0 or len(wrong) * fpr < 1:
        return float("nan")
    ordered = np.sort(wrong)[::-1]
    # A pair passes above the threshold, not at it, so that ties are never let in.
    threshold = ordered[int(np.floor(fpr * len(wrong) + 1e-9))]
    return float((right > threshold).mean())
