"""The preview of dashboards: it asks Prometheus what Grafana would ask, and draws what is answered."""

import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from watched_here import Prometheus, prometheus_of
from watching_files import DASHBOARDS, MONITORING, dashboard, load_preview, needs_prometheus, needs_promtool, panels

MINUTE = 60


preview = load_preview()


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    """A Prometheus that remembers ten minutes of a run, half an hour after its first and ten after its last figure."""
    folder, now = tmp_path_factory.mktemp("told"), int(time.time())
    (folder / "prometheus.yml").write_text("global: {}\n")
    lines = []
    for name, value in (
        ("ray_nigaoe_train_steps_planned", lambda at: 100),
        ("ray_nigaoe_train_steps_done", lambda at: at / 10),
        ("ray_nigaoe_train_loss", lambda at: 1 / (1 + at)),
        ("ray_nigaoe_train_data_wait_ratio", lambda at: 0.5),
        ("ray_nigaoe_train_memory_bytes", lambda at: 3 * 2**30),
    ):
        lines.append(f"# TYPE {name} gauge")
        moments = range(0, 10 * MINUTE, 15)
        lines += [f'{name}{{run="faces"}} {value(at)} {now - 30 * MINUTE + at}' for at in moments]
    # Ray's nodes, to this moment, and three of them.
    lines.append("# TYPE ray_node_cpu_utilization gauge")
    for node in (1, 2, 3):
        lines += [
            f'ray_node_cpu_utilization{{ip="10.0.0.{node}"}} {10 * node} {now - at}' for at in range(1800, 0, -15)
        ]
    (folder / "told.txt").write_text("\n".join([*lines, "# EOF", ""]))
    command = ["promtool", "tsdb", "create-blocks-from", "openmetrics", "told.txt", "data"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=60)
    with prometheus_of(folder) as running:
        yield running


@needs_promtool
@needs_prometheus
def test_panels_show_what_prometheus_remembers(told: Prometheus) -> None:
    (path,) = [path for path in DASHBOARDS if path.stem == "training"]
    board = dashboard(path)
    over = preview.window(board, "40m")
    data = preview.answers(told.url, board, over)
    assert list(data) == [panel["title"] for panel in panels(path)]
    drawn = {"Done", "Loss", "Waiting for data", "Device memory", "CPUs"}
    assert {title for title, series in data.items() if series} == drawn
    (done,) = data["Done"]
    assert (done.name, done.last) == ("faces", pytest.approx(0.585))
    # Nothing before the first and nothing five minutes after the last, when Prometheus takes a gauge for gone.
    known = done.times[~np.isnan(done.values)]
    assert known[0] == pytest.approx(over.start + 10 * MINUTE, abs=20)
    assert known[-1] == pytest.approx(over.start + 25 * MINUTE, abs=45)
    assert set(np.diff(done.times)) == {15}
    assert [series.name for series in data["CPUs"]] == ["10.0.0.1", "10.0.0.2", "10.0.0.3"]
    assert [series.name for series in data["Loss"]] == ["faces", "faces, 10 min"]


@needs_promtool
@needs_prometheus
def test_the_command_draws_every_dashboard(told: Prometheus, tmp_path: Path) -> None:
    command = [
        sys.executable,
        str(MONITORING / "preview.py"),
        told.url,
        "--last",
        "40m",
        "--out",
        str(tmp_path / "drawn"),
    ]
    subprocess.run(command, check=True, timeout=120)
    assert sorted(path.stem for path in (tmp_path / "drawn").iterdir()) == [path.stem for path in DASHBOARDS]
    for path in DASHBOARDS:
        rows = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in dashboard(path)["panels"])
        with Image.open(tmp_path / "drawn" / f"{path.stem}.png") as picture:
            assert picture.size == (1200, rows * preview.ROW_PX + preview.HEAD_PX)


@needs_promtool
@needs_prometheus
def test_what_prometheus_refuses_is_told(told: Prometheus) -> None:
    board = dashboard(DASHBOARDS[0])
    panel = panels(DASHBOARDS[0])[0]
    panel["targets"][0]["expr"] = "max by (run) ("
    with pytest.raises(ValueError, match=f"panel '{panel['title']}': Prometheus answers .*parse error"):
        preview.ask(told.url, board, panel, preview.window(board))


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_every_panel_can_be_drawn(path: Path) -> None:
    board, over = dashboard(path), preview.Window(0.0, 600.0)
    times = np.arange(0.0, 601.0, 15.0)
    values = np.where(times < 300, 1.0, np.nan)
    some = [preview.Series(f"a name of some length {n}", times, n * values) for n in range(20)]
    figure = preview.draw(board, {panel["title"]: some for panel in panels(path)}, over)
    said = [text.get_text() for text in figure.texts]
    assert {panel["title"] for panel in board["panels"]} <= set(said)
    assert "No data" not in said
    legends = [[text.get_text() for text in legend.get_texts()] for legend in figure.legends]
    assert len(legends) == sum(panel["type"] == "timeseries" for panel in panels(path))
    assert all(names[0] == some[0].name and names[-1].endswith("more") for names in legends)
    empty = preview.draw(board, {panel["title"]: [] for panel in panels(path)}, over)
    assert [text.get_text() for text in empty.texts].count("No data") == len(panels(path))


def test_a_gap_stays_a_gap_and_a_threshold_colours() -> None:
    times = np.arange(0.0, 61.0, 15.0)
    series = preview.Series("one", times, np.array([1.0, np.nan, 3.0, np.nan, np.nan]))
    assert series.last == 3.0
    assert np.isnan(preview.Series("one", times, np.full(5, np.nan)).last)
    field = {"thresholds": {"steps": [{"color": "green", "value": None}, {"color": "red", "value": 2}]}}
    assert [preview.color_of(value, field) for value in (0.0, 1.9, 2.0)] == [
        preview.COLORS[name] for name in ("green", "green", "red")
    ]


@pytest.mark.parametrize(
    ("step_s", "rate"),
    # Four scrapes, or one more than a step where steps are long.
    [(15, "60s"), (45, "60s"), (60, "75s"), (300, "315s")],
)
def test_macros_and_variables_are_filled_in_as_by_grafana(step_s: int, rate: str) -> None:
    expr = 'rate(a{run=~"$run", b="${run}"}[$__rate_interval]) + b[$__interval]'
    assert preview.filled(expr, {"run": ".*"}, step_s, 15) == f'rate(a{{run=~".*", b=".*"}}[{rate}]) + b[{step_s}s]'


@pytest.mark.parametrize(
    ("minutes", "px", "step_s"), [(20, 400, 15), (180, 400, 30), (180, 1200, 15), (7 * 24 * 60, 400, 1800)]
)
def test_steps_are_as_long_as_grafana_makes_them(minutes: int, px: float, step_s: int) -> None:
    assert preview.Window(0.0, minutes * 60.0).step_s(px, scrape_s=15) == step_s


def test_variables_stand_at_what_the_dashboard_opens_with() -> None:
    variable = {"name": "run", "type": "query", "allValue": ".*", "current": {"value": ["$__all"]}}
    board: dict[str, Any] = {"templating": {"list": [{"name": "datasource", "type": "datasource"}, variable]}}
    assert preview.defaults(board) == {"run": ".*"}
    variable["current"] = {"value": ["a", "b"]}
    assert preview.defaults(board) == {"run": "(a|b)"}
    assert [preview.defaults(dashboard(path)).popitem()[1] for path in DASHBOARDS] == [".*"] * len(DASHBOARDS)


@pytest.mark.parametrize(
    ("value", "unit", "decimals", "said"),
    [
        (0.0, "s", None, "0 s"),
        (0.0123, "s", None, "12.3 ms"),
        (5400.0, "s", None, "1.5 h"),
        (8123.4, "ms", None, "8.12 s"),
        (0.256, "percentunit", None, "25.6%"),
        (3 * 2.0**30, "bytes", None, "3 GiB"),
        (-1.5e6, "Bps", None, "-1.5 MB/s"),
        (1234.0, "short", None, "1.23 K"),
        (40.0, "none", 0, "40"),
        (1e-4, "sci", None, "0.0001"),
        (0.2, "reqps", None, "0.2 req/s"),
    ],
)
def test_values_are_told_with_their_units(value: float, unit: str, decimals: int | None, said: str) -> None:
    assert preview.shown(value, unit, decimals) == said


def test_lengths_of_time_and_units_that_are_unknown_are_refused() -> None:
    assert [preview.seconds(text) for text in ("15s", "30m", "3h", "2d")] == [15, 1800, 10800, 172800]
    with pytest.raises(ValueError, match="'soon'"):
        preview.seconds("soon")
    with pytest.raises(ValueError, match="'furlongs'"):
        preview.shown(1.0, "furlongs")


def test_the_preview_knows_how_often_prometheus_scrapes() -> None:
    assert preview.scrape_s() == 15


def test_names_of_series_are_made_of_labels() -> None:
    assert (
        preview.labelled("{{ip}} GPU {{ GpuIndex }}{{none}}", {"ip": "10.0.0.1", "GpuIndex": "0"}) == "10.0.0.1 GPU 0"
    )
