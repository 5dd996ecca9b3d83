"""The picture grid: one row per reference, one column per condition."""

import io
from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from nigaoe.eval.plan import Plan
from nigaoe.eval.protocols.protocol import Column
from nigaoe.eval.summary import Results

_TILE_PX = 192
_GAP_PX = 8
_MARGIN_PX = 16
_FONT_PX = 19


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
    font = ImageFont.load_default(_FONT_PX)
    titles = [_wrapped(column.title, font, _TILE_PX) for column in grid.columns]
    line_px = round(_FONT_PX * 1.3)
    top = _MARGIN_PX + max(len(lines) for lines in titles) * line_px + _GAP_PX
    step = _TILE_PX + _GAP_PX
    size = 2 * _MARGIN_PX + len(titles) * step - _GAP_PX, top + len(grid.rows) * step - _GAP_PX + _MARGIN_PX
    canvas = Image.new("RGB", size, (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for j, lines in enumerate(titles):
        x = _MARGIN_PX + j * step
        y = top - _GAP_PX - len(lines) * line_px
        for k, line in enumerate(lines):
            middle = x + (_TILE_PX - font.getlength(line)) / 2
            draw.text((middle, y + k * line_px), line, fill=(38, 36, 48), font=font)
        for i, row in enumerate(grid.rows):
            canvas.paste(_tile(row[j]), (x, top + i * step))
    buffer = io.BytesIO()
    canvas.save(buffer, format="PNG", optimize=True)
    return buffer.getvalue()


def _tile(png: bytes) -> Image.Image:
    image = Image.open(io.BytesIO(png)).convert("RGB")
    side = min(image.size)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side)).resize((_TILE_PX, _TILE_PX), Image.Resampling.LANCZOS)


def _wrapped(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width_px: int) -> Sequence[str]:
    lines: list[str] = []
    for word in text.split():
        if lines and font.getlength(f"{lines[-1]} {word}") <= width_px:
            lines[-1] = f"{lines[-1]} {word}"
        else:
            lines.append(word)
    return lines
