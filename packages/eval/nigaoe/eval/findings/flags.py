"""What makes figures of a run doubtful: the mistakes that once made a baseline look good, and their kin."""

from collections.abc import Mapping, Sequence

import numpy as np

from nigaoe.core.reports import Cell, Check
from nigaoe.eval.protocols.protocol import DRAWN, REAL, CellPlan
from nigaoe.eval.running.merging import MergedCell
from nigaoe.eval.running.plan import Plan

_ASPECT = 0.02
"""Difference of aspect ratios that a network's square input hides."""
_SHRUNK = 0.5
"""Sides of real pictures below this share of the drawn ones' are thumbnails."""
_ALIKE = 0.99
"""A mean cosine between pictures of different samples above which a network sees one picture."""


def flags_of(plan: Plan, checks: Sequence[Check], cells: Sequence[Cell], merged: Mapping[str, MergedCell]) -> list[str]:
    """All sentences; none is the good case."""
    by_name = {cell.name: cell for cell in plan.cells}
    found = [f"The check {check.name!r} failed: {check.detail}." for check in checks if check.passed is False]
    for cell in cells:
        if cell.name not in by_name:
            continue
        asked = by_name[cell.name]
        found += _failed(cell)
        found += _broken(cell, asked)
        found += _unworded(asked, merged[cell.name])
        found += _copies(asked, merged[cell.name])
        found += _alike(asked, merged[cell.name])
        if asked.yardstick is not None:
            found += _shapes(cell, merged[cell.name], merged[asked.yardstick])
    for asked in plan.cells:
        if asked.source in REAL:
            found += _copies(asked, merged[asked.name]) + _alike(asked, merged[asked.name])
        found += _mixed(asked, merged[asked.name])
    return found + _stored_apart(plan, merged)


def _failed(cell: Cell) -> list[str]:
    if not cell.failed:
        return []
    first = next(iter(cell.failed.items()))
    return [f"{cell.title}: {len(cell.failed)} of {cell.n} samples have no picture, such as {first[0]!r} ({first[1]})."]


def _broken(cell: Cell, asked: CellPlan) -> list[str]:
    """Without an adapter a picture knows nothing of its reference, and at scale 0 neither."""
    has_likeness = asked.source not in DRAWN or asked.target is not None or bool(asked.adapter and asked.scale)
    return [
        f"{cell.title}: {name} does not fall when the pairs are shuffled ({control.matched:.4f}, shuffled "
        f"{control.shuffled:.4f}); it says nothing here."
        for name, control in cell.controls.items()
        if control.is_broken and (has_likeness or name == "clip_t")
    ]


def _unworded(cell: CellPlan, merged: MergedCell) -> list[str]:
    if cell.source != "folder":
        return []
    columns = merged.table.columns
    is_there = ~np.isnan(columns.get("width_px", np.zeros(0)))
    is_worded = ~np.isnan(columns.get("clip_t", np.full(len(is_there), np.nan)))
    n = int((is_there & ~is_worded).sum())
    if n == 0:
        return []
    return [
        f"{cell.title}: nobody says from which prompts all of these pictures were drawn, so {n} of "
        f"{int(is_there.sum())} have no CLIP-T; write metadata.jsonl with 'file_name' and 'prompt' beside them."
    ]


def _copies(cell: CellPlan, merged: MergedCell) -> list[str]:
    keys = [key.tobytes() for key in merged.keys]
    repeated = len(keys) - len(set(keys))
    found = []
    if repeated:
        found.append(f"{cell.title}: {repeated} of {len(keys)} pictures are copies of another one.")
    copied = merged.table.columns.get("is_reference", np.zeros(0))
    if np.nansum(copied) > 0:
        found.append(f"{cell.title}: {int(np.nansum(copied))} of {len(keys)} pictures are the reference itself.")
    return found


def _alike(cell: CellPlan, merged: MergedCell) -> list[str]:
    """Pictures that were rescaled twice on their way into files are black, and as good as one picture."""
    found = []
    for name, side in merged.sides.items():
        n = len(side.kept.ids)
        if n < 2:
            continue
        rows = side.kept.features.astype(np.float64)
        lengths = np.linalg.norm(rows, axis=1, keepdims=True)
        units = rows / np.where(lengths > 0, lengths, 1.0)
        # Of all pairs, without those of a picture with itself.
        cosine = (np.square(units.sum(axis=0)).sum() - np.square(units).sum()) / (n * (n - 1))
        if cosine > _ALIKE:
            found.append(
                f"{cell.title}: to {name} all its pictures are one (mean cosine {cosine:.4f}); look whether they are "
                "black or were rescaled twice."
            )
    return found


def _shapes(cell: Cell, drawn: MergedCell, real: MergedCell) -> list[str]:
    if any(np.isnan(one.table.columns.get("width_px", np.zeros(0))).all() for one in (drawn, real)):
        return []
    sizes = [_typical(one) for one in (drawn, real)]
    (width, height), (real_width, real_height) = sizes
    held = f"{real_width:g}x{real_height:g}"
    said = f"{cell.title}: its pictures of {width:g}x{height:g} px are held against ones of {held} px"
    if abs(width / height - real_width / real_height) > _ASPECT * width / height:
        return [f"{said}; networks stretch both to one square, so distances of distributions say little: crop alike."]
    if min(real_width, real_height) < _SHRUNK * min(width, height):
        return [f"{said}; thumbnails lack what a network looks for, so distances say little: take the originals."]
    return []


def _mixed(cell: CellPlan, merged: MergedCell) -> list[str]:
    lossy, n = _lossy(merged)
    if lossy in (0, n):
        return []
    return [
        f"{cell.title}: {lossy} of {n} pictures come from files that lose detail, such as JPEG, and the others do not; "
        "networks see a codec, so save all alike."
    ]


def _stored_apart(plan: Plan, merged: Mapping[str, MergedCell]) -> list[str]:
    """Systems of which one lost to a codec what the other one kept."""
    drawn = [(cell, *_lossy(merged[cell.name])) for cell in plan.cells if cell.source in DRAWN]
    coded = [cell.title for cell, lossy, n in drawn if 0 < n == lossy]
    whole = [cell.title for cell, lossy, n in drawn if lossy == 0 < n]
    if not coded or not whole:
        return []
    return [
        f"{', '.join(coded)}: pictures from files that lose detail, such as JPEG, and those of {whole[0]} are not; "
        "networks see a codec, so hold systems against each other that are saved alike."
    ]


def _lossy(merged: MergedCell) -> tuple[int, int]:
    """How many pictures were saved with loss, and of how many."""
    told = merged.table.columns.get("is_lossy", np.zeros(0))
    return int(np.nansum(told)), int((~np.isnan(told)).sum())


def _typical(merged: MergedCell) -> tuple[float, float]:
    return float(np.nanmedian(merged.table.columns["width_px"])), float(np.nanmedian(merged.table.columns["height_px"]))
