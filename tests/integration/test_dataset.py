"""A dataset as people have it: checked on Ray, its bad rows left out, and split."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image
from typer.testing import CliRunner

from nigaoe.core.config import load_config
from nigaoe.train.config import TrainConfig
from nigaoe.train.dataset_commands import dataset_app
from nigaoe.train.records.splitting import held_out_records, training_records


def _nigaoe(*words: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "nigaoe.core.cli", *map(str, words)]
    return subprocess.run(command, capture_output=True, text=True, timeout=240, check=False)


def _stripes(number: int) -> Image.Image:
    """A picture like no other of the first hundred."""
    wave = np.sin(np.arange(100) * (0.05 + number / 400))
    rows, columns = np.meshgrid(wave, np.roll(wave, number))
    pixels = np.stack([rows, columns, rows * columns], axis=-1)
    return Image.fromarray((127 * (pixels + 1)).astype(np.uint8))


@pytest.fixture
def config(tmp_path: Path) -> Path:
    """80 pictures of 40 people, more than one task's worth; some of them spoilt."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    names = [f"{person:02d}_{i}.jpg" for person in range(40) for i in range(2)]
    lines = ["ID,identity,caption_0", *(f"{name},{name[:2]},a photo called {name}" for name in names)]
    (folder / "captions.csv").write_text("\n".join(lines))
    for number, name in enumerate(names):
        _stripes(number).save(folder / name)
    (folder / "00_1.jpg").write_bytes((folder / "00_1.jpg").read_bytes()[:700])
    (folder / "01_0.jpg").unlink()
    shutil.copy(folder / "02_0.jpg", folder / "39_1.jpg")
    _stripes(6).convert("CMYK").save(folder / "03_0.jpg")
    path = tmp_path / "train.yaml"
    data = {"source": str(folder / "captions.csv"), "prepared": str(tmp_path / "prepared")}
    values = {"name": "x", "out": str(tmp_path / "out"), "base": "toy/photo", "image_encoder": "toy/image_encoder"}
    path.write_text(yaml.safe_dump({**values, "steps": 1, "data": data}))
    return path


@pytest.mark.timeout(300)
def test_a_dataset_is_checked_and_split_and_nothing_is_measured_that_was_learnt(config: Path, tmp_path: Path) -> None:
    checked = _nigaoe("dataset", "check", config)
    assert checked.returncode == 0, checked.stderr
    out = tmp_path / "prepared-check"
    assert f"data.quarantine={out / 'quarantine.jsonl'}" in checked.stdout
    report = json.loads((out / "check.json").read_text())
    assert report["counts"] == {"damaged": 1, "missing": 1, "identity_conflict": 1, "cmyk": 1}
    # Of two equal pictures the later row goes, whichever task was done first.
    assert [(f["kind"], f["key"]) for f in report["findings"]] == [
        ("damaged", "00_1.jpg"),
        ("missing", "01_0.jpg"),
        ("cmyk", "03_0.jpg"),
        ("identity_conflict", "39_1.jpg"),
    ]
    assert (report["rows"], report["usable_rows"]) == (80, 77)
    assert "data:image/webp" in (out / "report.html").read_text()

    settings = [f"data.quarantine={out / 'quarantine.jsonl'}"]
    words = [*settings, "--out", str(tmp_path / "split.json"), "--held-out", "0.1"]
    made = CliRunner().invoke(dataset_app, ["split", str(config), *words])
    assert made.exit_code == 0, made.output
    assert "held out 4 of 40 identities" in made.output

    data = load_config(config, TrainConfig, [*settings, f"data.split={tmp_path / 'split.json'}"]).data
    learnt, measured = training_records(data), held_out_records(data)
    assert len(learnt) + len(measured) == 77
    assert len({record.identity for record in measured}) == 4
    assert {record.identity for record in learnt}.isdisjoint(record.identity for record in measured)
