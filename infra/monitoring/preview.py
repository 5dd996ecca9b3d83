"""Draw the dashboards from a live Prometheus where there is no Grafana, one PNG each.

    python infra/monitoring/preview.py http://localhost:9090 --last 30m --out build/previews

It is a preview: queries, defaults of variables, steps, grid, titles, units, legends, thresholds and gaps are the
dashboard's own. Colours, fonts and ticks are not Grafana's. What the dashboards here do not use is refused or left out.
"""

import argparse
import json
import math
import re
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import numpy as np
import yaml
from matplotlib.axes import Axes
from matplotlib.dates import AutoDateLocator, DateFormatter
from matplotlib.figure import Figure
from matplotlib.patches import Wedge
from matplotlib.ticker import FuncFormatter, MaxNLocator, MultipleLocator
from PIL import Image

GRAFANA = Path(__file__).with_name("grafana")
COLUMNS, COLUMN_PX, ROW_PX, HEAD_PX, GAP_PX, DPI = 24, 50, 34, 44, 5, 100
"""Of Grafana's grid; a row of its own is 38 px, and a screen has some 1,800."""
AXIS_PX, TICKS_PX, TITLE_PX, LEGEND_PX, LEGEND_ROWS = 58, 20, 30, 13, 4
LETTER_PX, MARK_PX = 4.7, 30
INTERVALS_S = (1, 2, 5, 10, 15, 20, 30, 60, 120, 300, 600, 900, 1200, 1800, 3600, 7200, 10800, 21600, 43200, 86400)
"""What Grafana rounds the time between two points to."""

PALETTE = ("#56a64b", "#e0b400", "#3274d9", "#ff780a", "#e02f44", "#8f3bb8", "#37872d", "#5794f2", "#b877d9", "#fa6400")
COLORS = {"green": "#56a64b", "red": "#e02f44", "orange": "#ff780a", "yellow": "#e0b400", "blue": "#3274d9"}
INK, PALE = "#24292e", "#8e8e8e"

UNITS: dict[str, tuple[tuple[float, str], ...]] = {
    "none": ((1.0, ""),),
    "short": ((1e9, " Bil"), (1e6, " Mil"), (1e3, " K"), (1.0, "")),
    "percent": ((1.0, "%"),),
    "reqps": ((1e3, " K req/s"), (1.0, " req/s")),
    "bytes": ((2.0**40, " TiB"), (2.0**30, " GiB"), (2.0**20, " MiB"), (2.0**10, " KiB"), (1.0, " B")),
    "Bps": ((1e9, " GB/s"), (1e6, " MB/s"), (1e3, " kB/s"), (1.0, " B/s")),
    "s": ((86400.0, " day"), (3600.0, " h"), (60.0, " min"), (1.0, " s"), (1e-3, " ms"), (1e-6, " us")),
}
"""Factor and suffix, the largest first."""


class Series(NamedTuple):
    """A line of a panel; NaN where Prometheus had nothing."""

    name: str
    times: np.ndarray
    values: np.ndarray

    @property
    def last(self) -> float:
        """`lastNotNull`, which all our panels of a single figure show."""
        known = self.values[~np.isnan(self.values)]
        return float(known[-1]) if len(known) else float("nan")


@dataclass(frozen=True)
class Window:
    """The time that is looked at, in seconds since 1970."""

    start: float
    end: float

    def step_s(self, width_px: float, scrape_s: int) -> int:
        """Between two points, as Grafana chooses it: a point per pixel, rounded, and never more than are scraped."""
        exact = (self.end - self.start) / width_px
        return max(scrape_s, min(INTERVALS_S, key=lambda interval: abs(interval - exact)))


def seconds(text: str) -> int:
    """How long `15s`, `30m` or `3h` are."""
    if not (found := re.fullmatch(r"(\d+)([smhd])", text)):
        raise ValueError(f"{text!r} is no length of time; write a number and one of s, m, h, d, as in 30m")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600, "d": 86400}[found[2]]


def window(board: dict[str, Any], last: str | None = None) -> Window:
    """The last minutes or, by default, what the dashboard itself opens with."""
    now = time.time()
    return Window(now - seconds(last or board["time"]["from"].removeprefix("now-")), now)


def scrape_s() -> int:
    """What the data source tells Grafana of Prometheus."""
    (source,) = yaml.safe_load((GRAFANA / "provisioning" / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    return seconds(source["jsonData"]["timeInterval"])


def defaults(board: dict[str, Any]) -> dict[str, str]:
    """What Grafana puts in the place of variables until somebody chooses otherwise."""
    found = {}
    for variable in board["templating"]["list"]:
        if variable["type"] == "query":
            chosen = variable["current"]["value"]
            found[variable["name"]] = variable["allValue"] if chosen == ["$__all"] else f"({'|'.join(chosen)})"
    return found


def filled(expr: str, variables: dict[str, str], step_s: int, every_s: int) -> str:
    """A query as Prometheus is asked it; `every_s` between scrapes."""
    rate_s = max(step_s + every_s, 4 * every_s)
    values = variables | {"__interval": f"{step_s}s", "__rate_interval": f"{rate_s}s"}
    return re.sub(r"\$(\w+)|\$\{(\w+)\}", lambda found: values[found[1] or found[2]], expr)


def labelled(legend: str, labels: dict[str, str]) -> str:
    """The name of a series by `legendFormat`."""
    return re.sub(r"\{\{\s*(\w+)\s*\}\}", lambda found: labels.get(found[1], ""), legend)


def ask(url: str, board: dict[str, Any], panel: dict[str, Any], over: Window) -> list[Series]:
    """All series of a panel, also those without a value.

    Raises:
        ValueError: Prometheus refuses a query.
    """
    every_s = scrape_s()
    step = over.step_s(panel["gridPos"]["w"] * COLUMN_PX, every_s)
    # Both on the grid of steps, so that a picture drawn later has the same points.
    times = np.arange(over.start // step, over.end // step + 1) * step
    found = []
    for target in panel["targets"]:
        expr = filled(target["expr"], defaults(board), step, every_s)
        asked = {"query": expr, "start": str(times[0]), "end": str(times[-1]), "step": str(step)}
        answer = httpx.get(f"{url}/api/v1/query_range", params=asked, timeout=60)
        if answer.status_code != 200:
            raise ValueError(f"panel {panel['title']!r}: Prometheus answers {answer.text[:300]!r} to {expr!r}")
        for series in answer.json()["data"]["result"]:
            values = np.full(len(times), np.nan)
            for moment, value in series["values"]:
                values[round((moment - times[0]) / step)] = float(value) if np.isfinite(float(value)) else np.nan
            found.append(Series(labelled(target["legendFormat"], series["metric"]), times, values))
    return found


def answers(url: str, board: dict[str, Any], over: Window) -> dict[str, list[Series]]:
    """What each panel shows, by its title: series with a value somewhere."""
    panels = [panel for panel in board["panels"] if panel["type"] != "row"]
    return {
        panel["title"]: [series for series in ask(url, board, panel, over) if np.isfinite(series.values).any()]
        for panel in panels
    }


def shown(value: float, unit: str, decimals: int | None = None) -> str:
    """A value with its unit, in the size that reads best."""
    if unit == "sci":
        return f"{value:.3g}"
    if unit in ("percentunit", "ms"):
        value, unit = (value * 100, "percent") if unit == "percentunit" else (value / 1000, "s")
    if unit not in UNITS:
        raise ValueError(f"unit {unit!r} is not one of {sorted(UNITS)}; add it to UNITS")
    sizes = UNITS[unit]
    fitting = (size for size in sizes if abs(value) >= size[0] or (value == 0 and size[0] == 1))
    factor, suffix = next(fitting, sizes[-1])
    number = value / factor
    if decimals is not None:
        return f"{number:.{decimals}f}{suffix}"
    return (f"{number:.3g}" if abs(number) < 1000 else f"{number:.0f}") + suffix


def color_of(value: float, defaults_of_field: dict[str, Any]) -> str:
    """By the thresholds: that of the last step which the value has reached."""
    steps = defaults_of_field["thresholds"]["steps"]
    reached = [step["color"] for step in steps if step["value"] is None or value >= step["value"]]
    return COLORS[reached[-1]]


def draw(board: dict[str, Any], data: dict[str, list[Series]], over: Window) -> Figure:
    """The whole dashboard in its own grid."""
    rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in board["panels"])
    width, height = COLUMNS * COLUMN_PX, rows * ROW_PX + HEAD_PX
    figure = Figure(figsize=(width / DPI, height / DPI), dpi=DPI, facecolor="#f4f5f5")
    first, last = (datetime.fromtimestamp(moment, UTC) for moment in (over.start, over.end))
    told = f"Preview by matplotlib, not Grafana. {first:%Y-%m-%d %H:%M} to {last:%H:%M} UTC"
    figure.text(8 / width, 1 - 16 / height, board["title"], fontsize=13, weight="bold", color=INK, va="center")
    figure.text(1 - 8 / width, 1 - 16 / height, told, fontsize=8, color=PALE, va="center", ha="right")
    for panel in board["panels"]:
        place = panel["gridPos"]
        left, top = place["x"] * COLUMN_PX + GAP_PX, place["y"] * ROW_PX + HEAD_PX
        box = Box(figure, left, top, place["w"] * COLUMN_PX - 2 * GAP_PX, place["h"] * ROW_PX - 2 * GAP_PX)
        if panel["type"] == "row":
            box.text(0, ROW_PX / 2 - GAP_PX, panel["title"], fontsize=10, weight="bold", va="center")
            continue
        box.frame(panel["title"])
        if not data[panel["title"]]:
            box.text(box.width / 2, box.height / 2, "No data", fontsize=11, color=PALE, ha="center", va="center")
        else:
            {"timeseries": _lines, "stat": _figures, "gauge": _gauges}[panel["type"]](box, panel, data, over)
    return figure


@dataclass(frozen=True)
class Box:
    """A panel's place on a figure, in pixels from its upper left corner."""

    figure: Figure
    left: float
    top: float
    width: float
    height: float

    def text(self, x: float, y: float, said: str, **how: Any) -> None:
        """Write, `x` and `y` from the box's corner."""
        across, down = (self.left + x) / self._size[0], 1 - (self.top + y) / self._size[1]
        self.figure.text(across, down, said, **({"color": INK} | how))

    def axes(self, left: float, top: float, width: float, height: float) -> Axes:
        """Axes of a size at a place in the box."""
        bottom = 1 - (self.top + top + height) / self._size[1]
        at = ((self.left + left) / self._size[0], bottom, width / self._size[0], height / self._size[1])
        return self.figure.add_axes(at)

    def legend(self, x: float, y: float, handles: list[Any], labels: list[str], columns: int) -> None:
        """Colours and names of lines."""
        at = ((self.left + x) / self._size[0], 1 - (self.top + y) / self._size[1])
        spaces = {"borderpad": 0, "borderaxespad": 0, "labelspacing": 0.35, "columnspacing": 1.2, "handlelength": 1}
        how: dict[str, Any] = {"frameon": False, "fontsize": 7, "labelcolor": INK}
        self.figure.legend(handles, labels, ncols=columns, loc="upper left", bbox_to_anchor=at, **spaces, **how)

    def frame(self, title: str) -> None:
        """A white ground, and the title."""
        ground = self.axes(0, 0, self.width, self.height)
        ground.set(xticks=[], yticks=[], facecolor="white")
        ground.spines[:].set_color("#dcdde0")
        self.text(8, 12, title, fontsize=8.5, weight="bold", va="center")

    @property
    def _size(self) -> tuple[float, float]:
        return self.figure.get_figwidth() * DPI, self.figure.get_figheight() * DPI


def _lines(box: Box, panel: dict[str, Any], data: dict[str, list[Series]], over: Window) -> None:
    field, series = panel["fieldConfig"]["defaults"], data[panel["title"]]
    custom = field["custom"]
    names = [one.name for one in series]
    columns = max(1, int(box.width // (max(map(len, names)) * LETTER_PX + MARK_PX)))
    legend_px = min(LEGEND_ROWS, -(-len(names) // columns)) * LEGEND_PX + 4
    axes = box.axes(AXIS_PX, TITLE_PX, box.width - AXIS_PX - 14, box.height - TITLE_PX - TICKS_PX - legend_px)
    floor, tops = np.zeros_like(series[0].values), []
    for number, one in enumerate(series):
        color, top = PALETTE[number % len(PALETTE)], one.values
        moments = np.array([datetime.fromtimestamp(moment, UTC) for moment in one.times], dtype=object)
        if custom["stacking"]["mode"] == "normal":
            top = floor + np.nan_to_num(one.values)
        axes.fill_between(moments, floor, top, color=color, alpha=custom["fillOpacity"] / 100, linewidth=0)
        axes.plot(moments, top, color=color, linewidth=1.2, label=one.name)
        if custom["showPoints"] != "never":
            alone = _alone(one.values)
            axes.plot(moments[alone], top[alone], color=color, marker="o", markersize=3, linestyle="none")
        if custom["stacking"]["mode"] == "normal":
            floor = top
        tops.append(top)
    if custom["thresholdsStyle"]["mode"] != "off":
        for step in field["thresholds"]["steps"][1:]:
            axes.axhline(step["value"], color=COLORS[step["color"]], linewidth=1, linestyle="--")
    axes.set_ylim(_limits(np.concatenate(tops), field))
    axes.set_xlim(*(datetime.fromtimestamp(moment, UTC) for moment in (over.start, over.end)))  # type: ignore[arg-type]
    _ticks(axes, field)
    handles, labels = axes.get_legend_handles_labels()
    room = columns * LEGEND_ROWS
    if len(labels) > room:
        handles, labels = handles[:room], [*labels[: room - 1], f"... {len(labels) - room + 1} more"]
    box.legend(8, box.height - legend_px, handles, labels, columns)


def _limits(values: np.ndarray, field: dict[str, Any]) -> tuple[float, float]:
    """Of the axis: fitting the lines and neither their ground nor a threshold, as long as nothing is prescribed."""
    least, most = float(np.nanmin(values)), float(np.nanmax(values))
    low = field.get("min", least - 0.08 * (most - least))
    high = field.get("max", most + 0.08 * (most - low))
    return (low, high) if high > low else (low, low + 1)


def _alone(values: np.ndarray) -> np.ndarray:
    """Where a value has none beside it, so that no line shows it."""
    known = np.pad(~np.isnan(values), 1)
    alone: np.ndarray = known[1:-1] & ~known[:-2] & ~known[2:]
    return alone


def _ticks(axes: Axes, field: dict[str, Any]) -> None:
    low, high = axes.get_ylim()
    if field["unit"] == "bytes":
        axes.yaxis.set_major_locator(MultipleLocator(2.0 ** math.ceil(math.log2((high - low) / 5))))
    elif field["unit"] == "s" and high - low > 5:
        axes.yaxis.set_major_locator(
            MultipleLocator(next(i for i in (*INTERVALS_S, high - low) if 5 * i >= high - low))
        )
    else:
        axes.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10], integer=field.get("decimals") == 0))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: shown(value, field["unit"], field.get("decimals"))))
    axes.xaxis.set_major_locator(AutoDateLocator(minticks=3, maxticks=6))  # type: ignore[no-untyped-call]
    axes.xaxis.set_major_formatter(DateFormatter("%H:%M", tz=UTC))  # type: ignore[no-untyped-call]
    axes.tick_params(labelsize=7, length=0, colors="#55595e")
    axes.grid(color="#e6e7e9", linewidth=0.7)
    axes.spines[:].set_visible(False)


def _figures(box: Box, panel: dict[str, Any], data: dict[str, list[Series]], over: Window) -> None:
    for number, one in enumerate(series := data[panel["title"]]):
        said, color = _said(one.last, panel)
        width = box.width / len(series)
        size = min(box.height / 5, 0.85 * width / max(4, len(said)))
        _write(box, (number + 0.5) * width, box.height / 2 + 8, said, one.name if len(series) > 1 else "", size, color)


def _gauges(box: Box, panel: dict[str, Any], data: dict[str, list[Series]], over: Window) -> None:
    field = panel["fieldConfig"]["defaults"]
    for number, one in enumerate(series := data[panel["title"]]):
        said, color = _said(one.last, panel)
        width = box.width / len(series)
        side = min(width - 12, box.height - TITLE_PX - 12)
        axes = box.axes(number * width + (width - side) / 2, TITLE_PX + 8, side, side)
        axes.set(xlim=(-1, 1), ylim=(-0.85, 1.15))
        axes.axis("off")
        share = min(1.0, max(0.0, (one.last - field["min"]) / (field["max"] - field["min"])))
        for start, fill in ((-30, "#e6e7e9"), (210 - 240 * share, color)):
            axes.add_patch(Wedge((0, 0), 1, start, 210, width=0.28, color=fill, linewidth=0))
        name = one.name if len(series) > 1 else ""
        _write(box, (number + 0.5) * width, TITLE_PX + 8 + 0.62 * side, said, name, side / 8, color)


def _said(value: float, panel: dict[str, Any]) -> tuple[str, str]:
    """A value as its panel words and colours it."""
    field = panel["fieldConfig"]["defaults"]
    said, color = shown(value, field["unit"], field.get("decimals")), color_of(value, field)
    for mapping in field.get("mappings", []):
        if (worded := mapping["options"].get(f"{value:g}")) is not None:
            said, color = worded["text"], COLORS.get(worded.get("color", ""), color)
    return said, color


def _write(box: Box, x: float, y: float, said: str, name: str, size: float, color: str) -> None:
    box.text(x, y, said, fontsize=size, weight="bold", color=color, ha="center", va="center")
    box.text(x, y + size + 6, name, fontsize=7, color=PALE, ha="center", va="center")


def save(figure: Figure, path: Path) -> None:
    """As PNG of few colours, also those of thin lines, and a third of the size."""
    figure.savefig(path)
    with Image.open(path) as picture:
        small = picture.convert("RGB").quantize(256, Image.Quantize.MAXCOVERAGE)
    small.save(path, optimize=True)


def main() -> None:
    """Draw what the command line names."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("prometheus", help="Its address.")
    parser.add_argument("--dashboards", nargs="*", type=Path, default=sorted((GRAFANA / "dashboards").glob("*.json")))
    parser.add_argument("--last", help="Look back as far, as in 30m; by default as far as the dashboard does.")
    parser.add_argument("--out", type=Path, default=Path("build/previews"), help="A folder.")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    for path in arguments.dashboards:
        board = json.loads(path.read_text(encoding="utf-8"))
        over = window(board, arguments.last)
        save(draw(board, answers(arguments.prometheus, board, over), over), arguments.out / f"{path.stem}.png")


if __name__ == "__main__":
    main()
