"""What Weights & Biases is given of an evaluation, read from the files of an offline run."""

import hashlib
import io
import json
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nigaoe.core.errors import ConfigError
from nigaoe.core.reports import Cell, Check, Comparison, Estimate, Report
from nigaoe.eval.pages.tracking import log_to_wandb
from nigaoe.eval.running.gallery import Gallery, thumbnail
from nigaoe.eval.running.tables import SampleTable

NAN = float("nan")
CELLS = ("photo-none", "photo-adapter")
SAMPLES = ("a", "b", "c")


def _report() -> Report:
    cells = [
        Cell(
            name=name,
            title=name,
            base="toy/photo",
            adapter=None,
            prompt=None,
            n=3,
            metrics={"clip_i": Estimate(value=value, n=3, low=value - 0.1, high=value + 0.1)},
        )
        for name, value in zip(CELLS, (0.25, 0.75), strict=True)
    ]
    better = Estimate(value=0.5, n=3, low=0.4, high=0.6)
    compared = Comparison(
        cell=CELLS[1], baseline=CELLS[0], metric="clip_i", difference=better, p=0.01, n_groups=3, is_better=True
    )
    checks = [Check(name="identical", passed=None, detail="no CLIP")]
    return Report(title="of <today>", provenance={"seed": "0"}, checks=checks, cells=cells, comparisons=[compared])


def _tables() -> dict[str, SampleTable]:
    columns = {"clip_i": np.array([0.25, NAN, 0.75]), "clip_i~wrong0": np.zeros(3)}
    return {name: SampleTable(SAMPLES, ("g", "g", "h"), columns, {"b": "no picture"}) for name in CELLS}


def _gallery() -> Gallery:
    def drawn(tint: int) -> bytes:
        return thumbnail(Image.new("RGB", (32, 32), (tint, 90, 60)))

    pictures = {cell: {s: drawn(40 * i + 9 * j) for j, s in enumerate("ac")} for i, cell in enumerate(CELLS)}
    return Gallery({sample: drawn(200 + i) for i, sample in enumerate(SAMPLES)}, pictures)


@pytest.fixture(autouse=True)
def _own_folders(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DATA", "CACHE", "CONFIG"):
        monkeypatch.setenv(f"WANDB_{name}_DIR", str(tmp_path / name))


def _soon(holds: Callable[[], bool]) -> bool:
    """Its service goes on writing for a moment after `finish`."""
    deadline = time.monotonic() + 30
    while not (found := holds()) and time.monotonic() < deadline:
        time.sleep(0.05)
    return found


def test_an_offline_run_has_the_figures_the_pictures_and_the_page(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("WANDB_MODE")
    out = tmp_path / "out"
    out.mkdir()
    (out / "report.html").write_text("<title>page</title>")
    files = log_to_wandb("nigaoe", out, _report(), _tables(), _gallery(), ["a", "b"])
    assert files is not None
    assert files.is_relative_to(out / "wandb")
    assert files.parent.name.startswith("offline-run-")
    assert _soon(lambda: len(list(files.glob("media/table/*.table.json"))) == 5)
    paths = files.glob("media/table/*.table.json")
    tables = {path.name.partition("_")[0]: json.loads(path.read_text()) for path in paths}
    assert set(tables) == {"figures", "comparisons", "checks", "pictures", "samples"}
    assert tables["figures"]["data"][1] == ["photo-adapter", "photo-adapter", "clip_i", 0.75, 0.65, 0.85, 3, 0]
    assert tables["comparisons"]["data"][0][3:] == [0.5, 0.4, 0.6, 0.01, True]
    assert tables["checks"]["data"] == [["identical", None, "no CLIP"]]
    assert tables["samples"]["columns"] == ["cell", "sample", "group", "failed", "clip_i"]
    assert tables["samples"]["data"][:2] == [
        ["photo-none", "a", "g", None, 0.25],
        ["photo-none", "b", "g", "no picture", None],
    ]
    assert tables["pictures"]["columns"] == ["sample", "reference", *CELLS]
    first, second = tables["pictures"]["data"]
    assert first == ["a", "Image", "Image", "Image"]
    assert second == ["b", "Image", None, None], "a failed sample has none"
    (log,) = files.parent.glob("*.wandb")
    page = f"report-{files.parent.name.rpartition('-')[2]}".encode()
    assert _soon(lambda: page in log.read_bytes() and b"photo-adapter/clip_i" in log.read_bytes())
    # Pictures of tables go as artifacts, which wait elsewhere.
    staged = [path.read_bytes() for path in (tmp_path / "DATA").rglob("*") if path.is_file()]
    assert b"<title>page</title>" in staged
    by_digest = {hashlib.sha256(content).hexdigest(): content for content in staged}
    entries = [json.loads(content) for content in staged if content.startswith(b"{")]
    # The same table may wait more than once.
    row = next(x for x in entries if x.get("_type") == "table" and "reference" in x["columns"])["data"][0]
    for picture, tint in zip(row[1:], (200, 0, 40), strict=True):
        with Image.open(io.BytesIO(by_digest[picture["sha256"]])) as image:
            pixel = image.getpixel((16, 16))
            assert isinstance(pixel, tuple)
            assert abs(pixel[0] - tint) < 8


def test_nothing_is_written_where_it_is_disabled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert log_to_wandb("nigaoe", tmp_path, _report(), _tables(), _gallery(), ["a"]) is None
    assert list(tmp_path.iterdir()) == []


def test_a_mode_that_there_is_not_is_said_in_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_MODE", "dryrun")
    with pytest.raises(ConfigError, match="WANDB_MODE is 'dryrun'; set it to one of online, offline, disabled"):
        log_to_wandb("nigaoe", tmp_path, _report(), _tables(), _gallery(), ["a"])
