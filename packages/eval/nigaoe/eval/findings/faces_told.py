"""What a face encoder's cosines say once all samples of a cell are there: AUC and recognition, per sample.

N samples, K wrong partners of each.
"""

from dataclasses import replace

import numpy as np
from jaxtyping import Float64

from nigaoe.eval.findings.figures import FALSE_ALARMS
from nigaoe.eval.running.panel import FACE_AUC, FACE_FOUND, FACE_RECOGNISED, REFERENCE_FOUND
from nigaoe.eval.running.tables import SampleTable


def face_columns(table: SampleTable) -> SampleTable:
    """The table with two more columns for each face encoder that looked at it.

    `_auc`: the share of all wrong pairs that a sample's right pair is above, whose mean is the AUC. `_recognised`:
    whether it is above the threshold that lets 1 % of wrong pairs pass; a picture without a face is not.
    """
    encoders = [name.removesuffix(REFERENCE_FOUND) for name in table.columns if name.endswith(REFERENCE_FOUND)]
    columns = dict(table.columns)
    for name in encoders:
        right, wrong = table.columns[name], table.wrong(name)
        told = np.sort(wrong[~np.isnan(wrong)])
        columns[f"{name}{FACE_AUC}"] = _beaten(right, told)
        # Where the reference has no face, nothing can be asked.
        asked = np.where(table.columns[f"{name}{FACE_FOUND}"] == 1.0, right, -np.inf)
        asked[table.columns[f"{name}{REFERENCE_FOUND}"] != 1.0] = np.nan
        columns[f"{name}{FACE_RECOGNISED}"] = _passed(asked, told)
    return replace(table, columns=columns)


def _beaten(right: Float64[np.ndarray, " N"], wrong: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " N"]:
    """Share of the sorted wrong pairs below each right one, ties counting half."""
    if len(wrong) == 0:
        return np.full(len(right), np.nan)
    below, up_to = (np.searchsorted(wrong, right, side=side) for side in ("left", "right"))
    return np.where(np.isnan(right), np.nan, (below + up_to) / (2 * len(wrong)))


def _passed(asked: Float64[np.ndarray, " N"], wrong: Float64[np.ndarray, " M"]) -> Float64[np.ndarray, " N"]:
    """Whether each is above the threshold; NaN where there are too few wrong pairs to set one."""
    if len(wrong) * FALSE_ALARMS < 1:
        return np.full(len(asked), np.nan)
    threshold = wrong[::-1][int(np.floor(FALSE_ALARMS * len(wrong) + 1e-9))]
    return np.where(np.isnan(asked), np.nan, (asked > threshold).astype(np.float64))
