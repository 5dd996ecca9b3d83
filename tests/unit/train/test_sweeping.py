"""Sweeps before anything runs: cells, their names and folders, what is missing; and the page of what was found."""

import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from nigaoe.core.config import load_config, parse_config
from nigaoe.core.errors import ConfigError
from nigaoe.core.manifests import AdapterManifest, Training, write_json
from nigaoe.train.sweeping.cells import Cell, SweepConfig, expand
from nigaoe.train.sweeping.page import SweepReport, SweepRow, figures, print_sweep, sweep_grid, write_sweep_page
from nigaoe.train.sweeping.sweep import _measurement, _rows, is_measured, is_trained, scale_folder
from nigaoe.train.watching.history import ValidationResult, write_validation

TRAIN: dict[str, Any] = {
    "base": "toy/photo",
    "image_encoder": "toy/image_encoder",
    "data": {"source": "captions.csv", "split": "split.json"},
    "steps": 4,
    "validation": {"scale": 0.7},
}


ROOT = Path(__file__).parents[3]


def make_sweep(grid: Mapping[str, Sequence[Any]], **changes: Any) -> SweepConfig:
    values: dict[str, Any] = {"name": "faces", "out": "sweep", "train": TRAIN, "grid": grid, **changes}
    return parse_config(values, SweepConfig, "sweep.yaml")


def test_every_combination_is_a_run_of_its_own(in_tmp: Path) -> None:
    grid: dict[str, list[Any]] = {"base": ["toy/photo", "toy/anime"], "optimizer.lr": [1e-4, 0.001], "scale": [0.5, 1]}
    cells = expand(make_sweep(grid))
    names = ["base-photo_lr-0.0001", "base-photo_lr-0.001", "base-anime_lr-0.0001", "base-anime_lr-0.001"]
    assert [cell.name for cell in cells] == names
    assert [(cell.config.base, cell.config.optimizer.lr) for cell in cells] == [
        (base, lr) for base in ("toy/photo", "toy/anime") for lr in (1e-4, 0.001)
    ]
    assert {cell.scales for cell in cells} == {(0.5, 1.0)}
    assert len({cell.config.out for cell in cells}) == len({cell.config.name for cell in cells}) == 4
    # What is prepared does not depend on the learning rate.
    prepared = [cell.config.data.prepared for cell in cells]
    assert prepared[0] == prepared[1] != prepared[2] == prepared[3]
    assert all(path.is_relative_to(in_tmp / "sweep") for path in [*prepared, *(cell.config.out for cell in cells)])


def test_a_grid_that_grows_keeps_its_runs(in_tmp: Path) -> None:
    before = expand(make_sweep({"data.resolution_px": [64]}))
    after = expand(make_sweep({"data.resolution_px": [64, 96], "scale": [0.5]}))
    assert before[0].config == after[0].config
    assert (before[0].scales, after[0].scales) == ((0.7,), (0.5,))


@given(
    st.lists(
        st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=60), min_size=1, unique=True
    )
)
def test_runs_have_names_of_their_own_whatever_is_varied(prompts: list[str]) -> None:
    cells = expand(make_sweep({"validation.prompts": [[prompt] for prompt in prompts]}))
    assert len({cell.name for cell in cells}) == len(prompts)
    assert len({cell.config.out for cell in cells}) == len(prompts)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"grid": {"optimizer.rate": [1]}}, ["optimizer.rate", "known keys"]),
        ({"grid": {"steps": [4, "many"]}}, ["steps-many", "'steps'"]),
        ({"grid": {"steps": []}}, ["'steps' takes no value"]),
        ({"grid": {"steps": [4, 4]}}, ["one value twice"]),
        ({"grid": {"cluster.num_workers": [1, 2]}}, ["cluster.num_workers", "cannot be varied"]),
        ({"grid": {"scale": [-1]}}, ["grid.scale", "-1"]),
        ({"grid": {"steps.more": [4]}}, ["steps", "not a section"]),
        ({"grid": {"steps": [4]}, "train": {**TRAIN, "validation": None}}, ["no validation"]),
        ({"grid": {"steps": [4]}, "train": "absent.yaml"}, ["absent.yaml", "does not exist"]),
    ],
)
def test_mistakes_are_named_before_anything_runs(in_tmp: Path, changes: dict[str, Any], words: list[str]) -> None:
    with pytest.raises(ConfigError) as caught:
        expand(make_sweep(**changes))
    assert all(word in str(caught.value) for word in words), str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("path", sorted(ROOT.glob("configs/*/sweep.yaml")), ids=lambda path: path.parent.name)
def test_every_sweep_of_ours_is_valid(path: Path) -> None:
    sweep = load_config(path, SweepConfig)
    cells = expand(sweep)
    runs = math.prod(len(values) for key, values in sweep.grid.items() if key != "scale")
    assert len({cell.name for cell in cells}) == runs > 1


def test_a_training_config_may_be_a_file(in_tmp: Path) -> None:
    Path("train.yaml").write_text(json.dumps(TRAIN))
    Path("sweep.yaml").write_text(json.dumps({"name": "a", "out": "b", "train": "train.yaml", "grid": {"steps": [2]}}))
    (cell,) = expand(load_config(Path("sweep.yaml"), SweepConfig, ["grid.steps=[3]"]))
    assert (cell.config.steps, cell.config.base) == (3, "toy/photo")


def finish(cell: Cell, scales: tuple[float, ...], judge: str) -> None:
    """Leave what a finished run leaves."""
    described = AdapterManifest(
        name=cell.config.name,
        variant="base",
        num_tokens=4,
        parameters=1,
        sha256="0" * 64,
        created=datetime(2026, 1, 1, tzinfo=UTC),
        training=Training(
            base=cell.config.base,
            base_hash="",
            image_encoder=cell.config.image_encoder,
            image_encoder_hash="",
            face_encoder=None,
            face_encoder_hash=None,
            dataset="",
            steps=cell.config.steps,
            samples_seen=0,
            metrics={},
            code_version="0",
            recipe=cell.config.model_dump(mode="json") | {"cluster": "another"},
        ),
    )
    write_json(described, cell.config.out / "adapter.json")
    lines = [{"step": i + 1, "images_per_s": rate, "time": 100.0 + 2 * i} for i, rate in enumerate((1.0, 30.0, 20.0))]
    start = {"event": "start", "step": 0, "world_size": 1, "time": 99.0}
    (cell.config.out / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in [start, *lines]))
    for scale in scales:
        folder = scale_folder(cell.config, scale)
        metrics = {"validation_loss": 0.5, "clip_i": scale / 2, "clip_i_shuffled": 0.1}
        write_validation(folder, ValidationResult(step=4, metrics=metrics))
        (folder / "measured.json").write_text(json.dumps(_measurement(cell, scale, judge)))
        (folder / "pictures").mkdir()
        for name in ("reference-000", "000-000"):
            Image.new("RGB", (40, 30), "red").save(folder / "pictures" / f"{name}.png")


def test_only_what_is_missing_is_done_again(in_tmp: Path) -> None:
    sweep = make_sweep({"optimizer.lr": [0.1, 0.2], "scale": [0.5, 1.0]})
    first, second = expand(sweep)
    finish(first, (0.5,), "judge")
    assert is_trained(first)
    assert is_measured(first, 0.5, "judge")
    assert not is_measured(first, 1.0, "judge")
    assert not is_measured(first, 0.5, "another judge")
    assert not is_trained(second)
    # Pictures drawn in another way are others; a recipe that was changed is another run.
    with_more = {**TRAIN, "validation": {"scale": 0.7, "references": 5}}
    (other, _) = expand(make_sweep(sweep.grid, train=with_more))
    assert not is_measured(other, 0.5, "judge")
    (longer, _) = expand(make_sweep(sweep.grid, train={**TRAIN, "steps": 9}))
    assert not is_trained(longer)


def make_report(in_tmp: Path) -> SweepReport:
    sweep = make_sweep({"optimizer.lr": [0.1, 0.2], "scale": [0.5, 1.0]})
    cells = expand(sweep)
    finish(cells[0], (0.5, 1.0), "judge")
    rows = _rows(in_tmp / "sweep", cells, {cells[1].name: "no room <here>"}, "judge")
    return SweepReport(name="faces", judge="judge", grid=sweep.grid, prompts=["a photo"], rows=rows)


def test_a_report_holds_a_row_for_each_run_and_scale(in_tmp: Path, capsys: pytest.CaptureFixture[str]) -> None:
    report = make_report(in_tmp)
    assert [(row.cell, row.scale) for row in report.rows] == [
        (cell, scale) for cell in ("lr-0.1", "lr-0.2") for scale in (0.5, 1.0)
    ]
    assert (report.rows[0].images_per_s, report.rows[0].seconds) == (20.0, 5.0)
    assert [figure.text for figure in figures(report.rows[1], report)] == ["0.5000", "0.500", "20", "5 s"]
    assert [figure.is_best for figure in figures(report.rows[1], report)] == [False, True, False, False]
    assert figures(report.rows[0], report)[1].beside == "wrong person 0.100"
    assert report.label(report.rows[0]) == "lr 0.1, scale 0.5"
    assert report.failures == {"lr-0.2": "no room <here>"}
    print_sweep(report)
    shown = capsys.readouterr().out
    assert "lr-0.2 (failed)" in shown
    assert max(map(len, shown.splitlines())) <= 80


def test_a_page_shows_the_table_and_the_grid(in_tmp: Path) -> None:
    report = make_report(in_tmp)
    out = in_tmp / "sweep"
    write_sweep_page(out, report)
    assert SweepReport.model_validate_json((out / "sweep.json").read_text()) == report
    page = (out / "report.html").read_text()
    assert "lr 0.1, scale 1" in page
    assert "no room &lt;here&gt;" in page
    assert page.count("data:image/png;base64,") == 1
    grid = sweep_grid(out, report)
    assert grid is not None
    with Image.open(out / "grid.png") as written:
        assert written.size == grid.size
    # The references and two scales of the run that did not fail, over each other.
    assert grid.height > 3 * 144
    red = [grid.getpixel((88, y)) == (255, 0, 0) for y in range(grid.height)]
    assert sum(a and not b for a, b in zip(red, [*red[1:], False], strict=True)) == 3


def test_losses_of_other_bases_are_not_held_against_each_other() -> None:
    rows = [
        SweepRow(
            cell=base,
            values={"base": base},
            scale=1,
            steps=4,
            images_per_s=None,
            seconds=0,
            metrics={"validation_loss": loss, "clip_i": loss},
            folder="",
        )
        for base, loss in (("a", 0.1), ("b", 0.2))
    ]
    report = SweepReport(name="x", judge="j", grid={"base": ["a", "b"]}, prompts=[], rows=rows)
    assert [figure.is_best for figure in figures(rows[0], report)[:2]] == [False, False]
    assert [figure.is_best for figure in figures(rows[1], report)[:2]] == [False, True]
    assert sweep_grid(Path(), SweepReport(name="x", judge="j", grid={}, prompts=[], rows=[])) is None
