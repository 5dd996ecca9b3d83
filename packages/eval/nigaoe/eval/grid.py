"""The picture grid: one row per reference, one column per condition."""

import io
from dataclasses import dataclass

from PIL import Image

from nigaoe.core.picture_grid import picture_grid
from nigaoe.eval.plan import Plan
from nigaoe.eval.protocols.protocol import Column
from nigaoe.eval.summary import Results


@dataclass(frozen=True)
class Grid:
    """PNG files by row and column."""

    columns: list[Column]
    rows: list[list[bytes]]


def collect_grid(plan: Plan, results: Results) -> Grid:
    """Pick the kept pictures out of the shards."""
    columns = plan.protocol.grid_columns()
    kept: dict[str, dict[str, bytes]] = {}
    for task in plan.tasks:
        kept.setdefault(task.cell.name, {}).update(results[task.id].pictures)
    # References are kept with every cell; any cell that is shown will do.
    source = next(column.cell for column in columns if column.cell is not None)
    rows = []
    for index in plan.protocol.grid_rows(plan.config.pictures):
        rows.append([kept[c.cell][f"{index}"] if c.cell else kept[source][f"{index}-reference"] for c in columns])
    return Grid(columns, rows)


def grid_png(grid: Grid) -> bytes:
    """The grid as one picture with column titles."""
    rows = [[Image.open(io.BytesIO(png)) for png in row] for row in grid.rows]
    buffer = io.BytesIO()
    picture_grid([column.title for column in grid.columns], rows).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
