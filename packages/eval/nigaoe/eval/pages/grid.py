"""The first picture grid: one row per sample, one column per condition; nothing in it is selected."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image

from nigaoe.core.picture_grid import picture_grid
from nigaoe.eval.protocols.protocol import Column
from nigaoe.eval.running.gallery import SIDE_PX, Gallery

_NOTHING = (232, 230, 236)
"""Where a sample failed."""


@dataclass(frozen=True)
class Grid:
    """Picture files by row and column; None where a sample failed."""

    columns: list[Column]
    rows: list[list[bytes | None]]


def collect_grid(columns: Sequence[Column], rows: Sequence[str], gallery: Gallery) -> Grid:
    """The gallery's pictures of some samples."""
    return Grid(list(columns), [[picture_of(gallery, column, sample) for column in columns] for sample in rows])


def picture_of(gallery: Gallery, column: Column, sample: str) -> bytes | None:
    """A sample's picture, or its reference; None where there is none."""
    if column.cell is None:
        return gallery.references.get(sample)
    return gallery.pictures.get(column.cell, {}).get(sample)


def grid_png(grid: Grid) -> bytes:
    """The grid as one picture with column titles."""
    nothing = Image.new("RGB", (SIDE_PX, SIDE_PX), _NOTHING)
    rows = [[nothing if file is None else Image.open(io.BytesIO(file)) for file in row] for row in grid.rows]
    buffer = io.BytesIO()
    picture_grid([column.title for column in grid.columns], rows).save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()
