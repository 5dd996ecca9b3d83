"""A sweep for real: two runs at the same time, one of which fails; the next sweep does what is missing."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from PIL import Image

from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.sweeping.page import SweepReport


def nigaoe(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nigaoe.core.cli", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=900)


def write_sweep(folder: Path) -> None:
    write_portraits(folder / "portraits", people=12, scenes=2, split="train", seed=0)
    data = {"source": "portraits/captions.csv", "split": "split.json", "reference": "other"}
    train = {
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": data,
        "steps": 3,
        "batch_size": 4,
        "cluster": {"num_workers": 1},
        "tracking": {"mode": "disabled"},
        "validation": {"every": 100, "loss_rows": 4, "references": 2, "steps": 2},
    }
    grid = {"init_from": [None, "later.safetensors"], "scale": [0.0, 1.0]}
    sweep = {"name": "starts", "out": "sweep", "train": train, "grid": grid, "parallel": 2}
    (folder / "sweep.yaml").write_text(yaml.safe_dump(sweep))
    # The same as a training config, for the command that splits.
    data_only = {"name": "split", "out": "out", **train, "data": {**data, "split": None, "prepared": "prepared"}}
    (folder / "train.yaml").write_text(yaml.safe_dump({**data_only, "validation": None}))


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_sweep_goes_on_with_what_is_missing(tmp_path: Path) -> None:
    write_sweep(tmp_path)
    split = nigaoe(tmp_path, "dataset", "split", "train.yaml", "--out", "split.json", "--held-out", "0.25")
    assert split.returncode == 0, split.stderr

    first = nigaoe(tmp_path, "sweep", "sweep.yaml")
    assert first.returncode == 2, first.stdout + first.stderr
    assert "1 of 2 runs failed, such as 'init_from-later.safetensors'" in first.stderr
    assert "'later.safetensors' does not exist" in first.stderr.replace(f"{tmp_path}/", "")
    assert "Traceback" not in first.stderr
    report = SweepReport.model_validate_json((tmp_path / "sweep" / "sweep.json").read_text())
    assert [bool(row.metrics) for row in report.rows] == [True, True, False, False]
    assert report.rows[0].metrics["validation_loss"] == report.rows[1].metrics["validation_loss"]
    assert report.rows[0].metrics["clip_i"] != report.rows[1].metrics["clip_i"]
    # One run at two scales below the references.
    with Image.open(tmp_path / "sweep" / "grid.png") as grid:
        before = grid.size
    # At scale 0 nothing of the reference arrives, so that everybody looks the same.
    pictures = [tmp_path / "sweep" / report.rows[0].folder / "pictures" / f"00{i}-000.png" for i in (0, 1)]
    assert pictures[0].read_bytes() == pictures[1].read_bytes()

    finished = tmp_path / "sweep" / "cells" / "init_from-null" / "adapter.safetensors"
    shutil.copyfile(finished, tmp_path / "later.safetensors")
    trained_at = finished.stat().st_mtime_ns
    second = nigaoe(tmp_path, "sweep", "sweep.yaml")
    assert second.returncode == 0, second.stdout + second.stderr
    assert "1 finished before" in second.stdout
    assert "init_from-null: training" not in second.stdout
    assert "init_from-later.safetensors: training 3 steps" in second.stdout
    assert finished.stat().st_mtime_ns == trained_at
    report = SweepReport.model_validate_json((tmp_path / "sweep" / "sweep.json").read_text())
    assert all(row.metrics and row.failure is None for row in report.rows)
    # Both were prepared once, in a folder that they share.
    assert len(list((tmp_path / "sweep" / "prepared").glob("*/manifest.json"))) == 1
    with Image.open(tmp_path / "sweep" / "grid.png") as grid:
        assert grid.height > before[1]
    recipe = json.loads((finished.parent / "adapter.json").read_text())["training"]["recipe"]
    assert recipe["name"] == "starts.init_from-null"
