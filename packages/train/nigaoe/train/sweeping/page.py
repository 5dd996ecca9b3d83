"""A sweep at its end: one table and one grid of pictures, as JSON, as a page, and in the terminal."""

import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from PIL import Image
from pydantic import BaseModel, ConfigDict
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nigaoe.core.atomic import write_whole
from nigaoe.core.pages import data_uri, render_page
from nigaoe.core.picture_grid import picture_grid
from nigaoe.train.planning.table import duration

REPORT_FILE, PAGE_FILE, GRID_FILE = "sweep.json", "report.html", "grid.png"
PICTURES = "pictures"
"""Folder of what a run drew at a scale."""
COLUMNS = (("validation_loss", "loss", 4), ("clip_i", "CLIP-I", 3), ("identity", "identity", 3))
"""Metric, title, digits."""
MAX_TILES = 12
"""In a row of the grid; further people are left out."""
_TILE_PX = 144
_TEMPLATE = Path(__file__).parent / "sweep.html.j2"


class SweepRow(BaseModel):
    """A run at a scale."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    cell: str
    values: dict[str, Any]
    """What the run has of what is varied."""
    scale: float
    steps: int
    """Done."""
    images_per_s: float | None
    """Median of the run."""
    seconds: float
    """Of training."""
    metrics: dict[str, float]
    """Of the finished adapter at this scale; none where it failed."""
    folder: str
    """Of the pictures, below that of the sweep."""
    failure: str | None = None


class Figure(NamedTuple):
    """Of a table."""

    text: str
    is_best: bool = False
    beside: str = ""
    """In small letters."""


class SweepReport(BaseModel):
    """`sweep.json`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: str
    judge: str
    """Image encoder that CLIP-I is of."""
    grid: dict[str, list[Any]]
    prompts: list[str]
    """That every person was drawn with."""
    rows: list[SweepRow]

    @property
    def failures(self) -> dict[str, str]:
        """Why runs failed, by name."""
        return {row.cell: row.failure for row in self.rows if row.failure is not None}

    def label(self, row: SweepRow) -> str:
        """A row in short: what it has of all that takes more than one value."""
        varied = {key.rpartition(".")[2]: value for key, value in row.values.items() if len(self.grid[key]) > 1}
        parts = [f"{name} {str(value).rpartition('/')[2]}" for name, value in varied.items()]
        scales = [f"scale {row.scale:g}"] if len(self.grid.get("scale", [])) > 1 else []
        return ", ".join([*parts, *scales]) or row.cell


def write_sweep_page(out: Path, report: SweepReport) -> None:
    """Write `sweep.json`, `grid.png` and `report.html`."""
    write_whole(out / REPORT_FILE, f"{report.model_dump_json(indent=2)}\n".encode())
    grid = sweep_grid(out, report)
    picture = b""
    if grid is not None:
        buffer = io.BytesIO()
        grid.save(buffer, format="PNG", optimize=True)
        picture = buffer.getvalue()
        write_whole(out / GRID_FILE, picture)
    html = render_page(
        _TEMPLATE,
        report=report,
        titles=[title for _, title, _ in _columns(report)],
        rows=[(row, figures(row, report)) for row in report.rows],
        grid=data_uri(picture) if picture else None,
        notes=_notes(report),
    )
    write_whole(out / PAGE_FILE, html.encode())


def print_sweep(report: SweepReport, console: Console | None = None) -> None:
    """The table, in a terminal."""
    table = Table(title=f"Sweep {report.name}", title_justify="left")
    table.add_column("run", overflow="fold")
    for title in ["scale", *(title for _, title, _ in _columns(report)), "images/s", "time"]:
        table.add_column(title, justify="right", no_wrap=True)
    for row in report.rows:
        name = escape(row.cell) + (" (failed)" if row.failure else "")
        table.add_row(name, f"{row.scale:g}", *(figure.text for figure in figures(row, report)))
    (console or Console(highlight=False)).print(table)


def figures(row: SweepRow, report: SweepReport) -> list[Figure]:
    """What stands in a row of the table, behind the run and its scale."""
    found = []
    for metric, _, digits in _columns(report):
        values = [other.metrics[metric] for other in report.rows if metric in other.metrics]
        best = _best(metric, values, report.grid)
        value, other = (row.metrics.get(key) for key in (metric, f"{metric}_shuffled"))
        beside = "" if other is None else f"wrong person {other:.{digits}f}"
        text = "" if value is None else f"{value:.{digits}f}"
        found.append(Figure(text, value is not None and value == best, beside))
    rate = "" if row.images_per_s is None else f"{row.images_per_s:.{1 if row.images_per_s < 10 else 0}f}"
    return [*found, Figure(rate), Figure(duration(row.seconds) if row.seconds else "")]


def _best(metric: str, values: Sequence[float], grid: Mapping[str, Sequence[Any]]) -> float | None:
    """The best of a column, where there is one to be told apart and they can be compared at all."""
    if len(set(values)) < 2:
        return None
    if metric != "validation_loss":
        return max(values)
    varies_target = any(
        len(options) > 1 and (key == "base" or key.startswith("data.")) for key, options in grid.items()
    )
    return None if varies_target else min(values)


def sweep_grid(out: Path, report: SweepReport) -> Image.Image | None:
    """The references, then a row for each run and scale; None where nothing was drawn."""
    drawn = [row for row in report.rows if row.metrics]
    if not drawn:
        return None
    first = out / drawn[0].folder / PICTURES
    names = sorted(path.name for path in first.glob("[0-9]*.png"))[:MAX_TILES]
    references = [f"reference-{name.partition('-')[0]}.png" for name in names]
    rows = [_pictures(first, references), *(_pictures(out / row.folder / PICTURES, names) for row in drawn)]
    titles = [_title(name, report.prompts) for name in names]
    return picture_grid(titles, rows, ["reference", *map(report.label, drawn)], _TILE_PX)


def _title(name: str, prompts: Sequence[str]) -> str:
    person, _, prompt = name.removesuffix(".png").partition("-")
    number = f"person {int(person) + 1}"
    return number if len(prompts) < 2 else f"{number}: {prompts[int(prompt)]}"


def _pictures(folder: Path, names: Sequence[str]) -> list[Image.Image]:
    pictures = []
    for name in names:
        path = folder / name
        # A run whose reader finds fewer faces has fewer people.
        pictures.append(Image.open(path).convert("RGB") if path.is_file() else Image.new("RGB", (8, 8), "white"))
    return pictures


def _columns(report: SweepReport) -> list[tuple[str, str, int]]:
    return [column for column in COLUMNS if any(column[0] in row.metrics for row in report.rows)]


def _notes(report: SweepReport) -> list[str]:
    notes = [
        f"CLIP-I: cosine between drawn pictures and their references in {report.judge}, the same for every run. "
        "The stronger an adapter is used the more alike pictures become to their references, background and pose "
        "included; look at the pictures before choosing the largest.",
        "Loss: held-out rows, nothing dropped and nothing weighted. It does not depend on the scale, and between runs "
        "of another base or resolution it cannot be compared.",
        "Images per second and time are those of training; runs that trained at the same time shared the machines.",
    ]
    return notes
