"""Cells for pictures that this run does not draw itself, and for further scales of the adapters."""

from collections.abc import Sequence
from dataclasses import replace

from nigaoe.core.errors import ConfigError
from nigaoe.eval.config import EvalConfig, FolderTarget, ServerTarget
from nigaoe.eval.protocols.protocol import DRAWN, CellPlan


def with_scales(cells: Sequence[CellPlan], scales: Sequence[float]) -> list[CellPlan]:
    """After each cell with an adapter and no special demand, the same one at every further scale."""
    found = []
    for cell in cells:
        found.append(cell)
        if cell.adapter is not None and not cell.variant:
            further = sorted(set(scales) - {cell.scale})
            found += [
                replace(cell, name=f"{cell.name}@{scale:g}", title=f"{cell.title}, scale {scale:g}", scale=scale)
                for scale in further
            ]
    return found


def with_targets(cells: Sequence[CellPlan], config: EvalConfig, usual: CellPlan | None = None) -> list[CellPlan]:
    """The cells, and one for each folder and server, of the samples of the cell that it is like, else of `usual`.

    Raises:
        ConfigError: There is no such cell.
    """
    found = list(cells)
    drawn = {cell.name: cell for cell in cells if cell.source in DRAWN}
    targets: dict[str, FolderTarget | ServerTarget] = {**config.folders, **config.servers}
    for name, target in targets.items():
        like = usual if target.like is None else drawn.get(target.like)
        if like is None and target.like is None:
            raise ConfigError(f"{name!r} is like no cell; give `like`, one of: {', '.join(drawn)}")
        if like is None:
            raise ConfigError(
                f"{name!r} is like cell {target.like!r}, which this evaluation lacks; it has: {', '.join(drawn)}"
            )
        is_folder = name in config.folders
        title = f"{'Folder' if is_folder else 'Server'} {name!r}"
        found.append(
            replace(
                like,
                name=name,
                title=title if target.like is None else f"{title}, like {target.like!r}",
                source="folder" if is_folder else "server",
                base=None,
                adapter=None,
                scale=None,
                target=name,
            )
        )
    return found


def scale_series(cells: Sequence[CellPlan]) -> dict[str, list[str]]:
    """Names of cells that differ in scale alone, in its order, by the name of the one at the usual scale."""
    series: dict[str, list[CellPlan]] = {}
    for cell in cells:
        if cell.adapter is not None and not cell.variant:
            series.setdefault(cell.name.partition("@")[0], []).append(cell)
    return {
        name: [cell.name for cell in sorted(members, key=lambda cell: cell.scale or 0.0)]
        for name, members in series.items()
        if len(members) > 1
    }
