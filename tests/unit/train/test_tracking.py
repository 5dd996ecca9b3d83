"""Figures of a run: what is written, what a reader makes of it after restarts, and the page of it all."""

import json
import re
import struct
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from nigaoe.core.errors import ConfigError
from nigaoe.train.config import TrackingConfig, TrainConfig
from nigaoe.train.watching.curves import Series, chart, smoothed, thinned
from nigaoe.train.watching.history import ValidationResult, coarser, grid_path, read_history, write_validation
from nigaoe.train.watching.page import write_run_page
from nigaoe.train.watching.progress import words
from nigaoe.train.watching.tracking import StepFigures, Tracker, log_last_validations, tracking_mode, with_tracking_mode


def _config(out: Path, mode: str | None = "disabled", **changes: Any) -> TrainConfig:
    values = {
        "name": "test",
        "out": out,
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {"source": "captions.csv", "prepared": "prepared"},
        "steps": 100,
        "tracking": {"mode": mode},
    }
    return TrainConfig.model_validate(values | changes)


def _figures(step: int, loss: float = 0.1, **changes: Any) -> StepFigures:
    values = dict(lr=1e-4, grad_norm=0.5, images_per_s=40.0, step_s=0.2, data_wait_s=0.01, tflops=None, mfu=None)
    return StepFigures(step=step, loss=loss, memory_gib=1.0, **values | changes)


def _lines(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


class Board:
    """A `ProgressBoard` without its cluster."""

    def __init__(self) -> None:
        self.told: list[tuple[Any, ...]] = []

    def __getattr__(self, name: str) -> SimpleNamespace:
        return SimpleNamespace(remote=lambda *arguments: self.told.append((name, *arguments)))


def test_lines_hold_what_was_measured_and_the_board_shows_it(tmp_path: Path) -> None:
    board = Board()
    tracker = Tracker(_config(tmp_path), board)
    tracker.started(0, 2)
    tracker.log(_figures(5, mfu=0.3))
    tracker.checkpoint_taken(5)
    tracker.close()
    start, line = _lines(tmp_path)
    assert (start["event"], start["step"], start["world_size"]) == ("start", 0, 2)
    assert start["pid"] > 0
    assert {key: line[key] for key in StepFigures._fields} == _figures(5, mfu=0.3)._asdict()
    assert line["time"] >= start["time"] > 1.7e9
    assert board.told == [("started", 0, 2), ("post", _figures(5, mfu=0.3)._asdict()), ("checkpoint_taken", 5)]


def test_what_is_no_number_is_null_and_no_reader_trips_over_it(tmp_path: Path) -> None:
    tracker = Tracker(_config(tmp_path), None)
    tracker.log(_figures(1, loss=float("nan"), grad_norm=float("inf")))
    tracker.close()
    text = (tmp_path / "metrics.jsonl").read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert _lines(tmp_path)[0]["loss"] is None
    (tmp_path / "run.json").write_text(_config(tmp_path).model_dump_json())
    write_run_page(tmp_path)
    assert "no finite numbers" in (tmp_path / "report.html").read_text()


def test_steps_that_are_taken_again_count_once(tmp_path: Path) -> None:
    first = Tracker(_config(tmp_path), None)
    first.started(0, 2)
    for step in (3, 7, 11, 14):
        first.log(_figures(step, loss=1.0))
    first.close()
    # Ticks come by the clock, so those of the second run fall on other steps.
    second = Tracker(_config(tmp_path), None)
    second.started(10, 1)
    for step in (12, 16):
        second.log(_figures(step, loss=2.0))
    second.close()
    history = read_history(tmp_path)
    assert [(line["step"], line["loss"]) for line in history.lines] == [(3, 1.0), (7, 1.0), (12, 2.0), (16, 2.0)]
    assert history.restarts == [10]
    assert [start.world_size for start in history.starts] == [2, 1]
    assert history.step == 16
    assert len(_lines(tmp_path)) == 8, "nothing is taken out of the file"


@settings(deadline=None)
@given(st.lists(st.tuples(st.integers(0, 30), st.lists(st.integers(1, 10), max_size=8)), max_size=6))
def test_histories_only_ever_rise(attempts: list[tuple[int, list[int]]]) -> None:
    """However often and from wherever a run is started again."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        out, reached = Path(folder), 0
        with (out / "metrics.jsonl").open("w") as file:
            for start, strides in attempts:
                step = min(start, reached)
                print(json.dumps({"event": "start", "step": step, "world_size": 1}), file=file)
                for stride in strides:
                    step += stride
                    print(json.dumps({"step": step, "loss": 0.0}), file=file)
                reached = step
        steps = [line["step"] for line in read_history(out).lines]
        assert steps == sorted(set(steps))
        assert read_history(out).step == reached


def test_a_line_that_was_cut_by_a_kill_costs_no_other_line(tmp_path: Path) -> None:
    tracker = Tracker(_config(tmp_path), None)
    tracker.started(0, 1)
    tracker.log(_figures(2))
    tracker.close()
    path = tmp_path / "metrics.jsonl"
    path.write_bytes(path.read_bytes() + b'{"step": 4, "loss": 0.0')
    again = Tracker(_config(tmp_path), None)
    again.started(0, 1)
    again.log(_figures(3))
    again.close()
    history = read_history(tmp_path)
    assert len(history.starts) == 2
    assert [line["step"] for line in history.lines] == [3]


def test_many_lines_become_few_and_keep_their_means() -> None:
    lines = [{"step": step, "loss": float(step), "mfu": None if step % 2 else 0.5} for step in range(1, 1001)]
    few = coarser(lines, 100)
    assert len(few) == 100
    assert few[0] == {"step": 10, "loss": 5.5, "mfu": 0.5}
    assert few[-1]["step"] == 1000
    assert sum(line["loss"] for line in few) / 100 == pytest.approx(500.5)
    assert coarser(lines[:100], 100) == lines[:100]
    assert coarser([{"step": 1, "mfu": None}, {"step": 2, "mfu": None}], 1) == [{"step": 2, "mfu": None}]


def _result(step: int, **changes: Any) -> ValidationResult:
    metrics = {
        "validation_loss": 0.2,
        "loss_t000_250": 0.3,
        "loss_t250_500": 0.1,
        "clip_i": 0.8,
        "clip_i_shuffled": 0.6,
    }
    values = {"metrics": metrics, "loss_rows": 8, "pictures": 4, "image_encoder": "toy/image_encoder"}
    return ValidationResult.model_validate({"step": step, **values, **changes})


def _validated(out: Path, step: int) -> ValidationResult:
    grid_path(out, step).parent.mkdir(exist_ok=True)
    Image.new("RGB", (600, 300), (step, 90, 60)).save(grid_path(out, step))
    result = _result(step)
    write_validation(out, result)
    return result


def test_validations_are_logged_once_whenever_they_end(tmp_path: Path) -> None:
    tracker = Tracker(_config(tmp_path), None)
    _validated(tmp_path, 10)
    tracker.log(_figures(12))
    tracker.log(_figures(13))
    _validated(tmp_path, 20)
    tracker.close()
    _validated(tmp_path, 30)
    log_last_validations(_config(tmp_path))
    log_last_validations(_config(tmp_path))
    logged = [line for line in _lines(tmp_path) if line.get("event") == "validation"]
    assert [line["step"] for line in logged] == [10, 20, 30]
    assert logged[0] | _result(10).metrics == logged[0]


def test_a_failed_validation_says_why_and_may_still_succeed(tmp_path: Path) -> None:
    tracker = Tracker(_config(tmp_path), None)
    write_validation(tmp_path, ValidationResult(step=10, failure="its process died"))
    tracker.log(_figures(12))
    tracker.log(_figures(13))
    _validated(tmp_path, 10)
    tracker.log(_figures(14))
    tracker.close()
    events = [(line["event"], line.get("reason")) for line in _lines(tmp_path) if "event" in line]
    assert events == [("validation_failed", "its process died"), ("validation", None)]


def test_the_bar_complains_of_data_only_when_they_are_late() -> None:
    assert words(_figures(1, loss=0.12345, images_per_s=1234.0)._asdict()) == "loss 0.1235, 1234 images/s"
    slow = _figures(1, images_per_s=2.345, step_s=2.0, data_wait_s=0.5)
    assert words(slow._asdict()) == "loss 0.1000, 2.3 images/s, waits 25% for data"


@pytest.mark.parametrize(
    ("config", "environment", "mode"),
    [
        (None, None, "offline"),
        (None, "online", "online"),
        (None, "disabled", "disabled"),
        ("offline", "online", "offline"),
        ("disabled", "offline", "disabled"),
    ],
)
def test_the_config_is_asked_first_and_then_the_environment(
    config: Any, environment: str | None, mode: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("WANDB_MODE", raising=False)
    if environment is not None:
        monkeypatch.setenv("WANDB_MODE", environment)
    assert tracking_mode(TrackingConfig(mode=config)) == mode
    assert with_tracking_mode(_config(tmp_path, config)).tracking.mode == mode


def test_an_unknown_mode_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "on")
    with pytest.raises(ConfigError, match=r"'on'.*offline, online, disabled"):
        tracking_mode(TrackingConfig())


def test_wandb_keeps_everything_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("WANDB_MODE")
    for start in (0, 10):
        tracker = Tracker(_config(tmp_path, None), None)
        tracker.started(start, 1)
        tracker.log(_figures(start + 5, loss=0.625))
        if start:
            _validated(tmp_path, 10)
        tracker.close()
    pictures = [path for path in (tmp_path / "wandb").rglob("files/media/images/**/*.png")]
    assert len(pictures) == 1
    # Its service goes on writing for a moment after `finish`.
    deadline = time.monotonic() + 30
    while len(lines := _wandb_lines(tmp_path)) < 3 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert [line["step"] for line in lines] == [5, 15, 10]
    assert [line.get("loss") for line in lines] == [0.625, 0.625, None]
    assert lines[2]["validation/clip_i"] == 0.8
    assert lines[2]["validation/pictures/_type"] == "image-file"


def _wandb_lines(out: Path) -> list[dict[str, Any]]:
    """What was logged, as `wandb sync` reads it: a LevelDB log of records, which hold values as JSON."""
    from wandb.proto.wandb_internal_pb2 import Record  # type: ignore[attr-defined]

    lines = []
    for path in sorted((out / "wandb").glob("offline-run-*-test/*.wandb")):
        content, position, part = path.read_bytes(), 7, b""
        while position + 7 <= len(content):
            length, kind = struct.unpack("<HB", content[position + 4 : position + 7])
            if position + 7 + length > len(content):
                break
            part += content[position + 7 : position + 7 + length]
            position += 7 + length
            # A record ends with a whole one (1) or a last part (4); fewer bytes than a header are left empty.
            position += -position % 2**15 if -position % 2**15 < 7 else 0
            if kind in (1, 4):
                items = Record.FromString(part).history.item
                values = {"/".join(item.nested_key) or item.key: json.loads(item.value_json) for item in items}
                lines += [values] if values else []
                part = b""
    return lines


def test_without_an_account_an_online_run_stays_here_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    tracker = Tracker(_config(tmp_path, "online"), None)
    tracker.started(0, 1)
    tracker.log(_figures(1))
    tracker.close()
    (note,) = read_history(tmp_path).notes
    assert "wandb sync" in note
    assert list((tmp_path / "wandb").glob("offline-run-*-test"))


def _paths(page: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r' d="M([^"]*)"', page)
    return [[(float(x), float(y)) for x, y in (p.split() for p in path.split("L"))] for path in found]


def test_the_page_shows_curves_restarts_pictures_and_failures(tmp_path: Path) -> None:
    config = _config(tmp_path, validation={"prompts": ["a person"]}, data={
        "source": "captions.csv", "prepared": "prepared", "split": "split.json"})  # fmt: skip
    (tmp_path / "run.json").write_text(config.model_dump_json())
    write_run_page(tmp_path)
    assert "Nothing was measured yet" in (tmp_path / "report.html").read_text()
    tracker = Tracker(config, None)
    for start, end in ((0, 60), (50, 100)):
        tracker.started(start, 2)
        for step in range(start + 1, end + 1):
            tracker.log(_figures(step, loss=1 / step, mfu=0.25))
    for step in (10, 20, 30, 40, 50, 60, 80):
        _validated(tmp_path, step)
    write_validation(tmp_path, ValidationResult(step=70, failure="it took <longer> than 5 s"))
    tracker.close()
    write_run_page(tmp_path)
    page = (tmp_path / "report.html").read_text()
    assert "100 of 100 steps" in page
    assert "finished" in page
    assert "started again once" in page
    assert "wrong person 0.600" in page
    assert "failed: it took &lt;longer&gt; than 5 s" in page
    assert page.count('src="data:image/webp;base64,') == 1 + 5
    assert "http" not in page
    assert page.count('class="mark"') == page.count("<svg"), "every curve shows the restart"
    assert len(_paths(page)) >= 12
    for path in _paths(page):
        assert all(0 <= x <= 320 and 0 <= y <= 176 for x, y in path)
        assert [x for x, _ in path] == sorted(x for x, _ in path)


@settings(deadline=None)
@given(st.lists(st.floats(-1e12, 1e12), min_size=1, max_size=60), st.booleans())
def test_every_curve_lies_between_round_ticks(values: list[float], from_zero: bool) -> None:
    laid_out = chart("title", [Series("label", list(enumerate(values)))], from_zero=from_zero)
    assert laid_out is not None
    heights = [y for y, _ in laid_out.y_ticks]
    assert heights == sorted(heights, reverse=True)
    assert 2 <= len(heights) <= 8
    (path,) = _paths(f'<path d="{laid_out.lines[0].path}"/>')
    assert all(min(heights) - 0.11 <= y <= max(heights) + 0.11 for _, y in path)


def test_no_values_make_no_curve_and_bad_ones_no_spike() -> None:
    assert chart("title", [Series("label", [(1, float("nan"))])]) is None
    laid_out = chart("title", [Series("label", [(1, 1.0), (2, float("inf")), (3, 2.0)])])
    assert laid_out is not None
    assert len(laid_out.lines[0].dots) == 2


def test_smoothing_starts_where_the_values_do_and_thinning_keeps_the_extremes() -> None:
    points = [(step, 5.0 if step == 777 else 1.0) for step in range(3000)]
    assert smoothed([(step, 2.0) for step in range(500)])[-1][1] == pytest.approx(2.0)
    assert smoothed(points)[0] == (0, 1.0)
    assert max(y for _, y in smoothed(points)) < 2
    assert len(thinned(points)) <= 300
    assert (777, 5.0) in thinned(points)
