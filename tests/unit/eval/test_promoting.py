"""The gate: an adapter is published if its own report says all that is demanded, and every miss is named if not."""

import shutil
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.testing import CliRunner

from nigaoe.core import cli
from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import save_adapter
from nigaoe.core.adapters.vetting import vet_adapter
from nigaoe.core.config import load_config
from nigaoe.core.errors import AdapterError, ConfigError, DataError
from nigaoe.core.manifests import Training, write_json
from nigaoe.core.registry import Registry
from nigaoe.core.reports import Cell, Check, Control, Estimate, Report
from nigaoe.core.transfers import sha256_of
from nigaoe.eval.commands import promote as promote_command
from nigaoe.eval.gate import GateConfig, misses
from nigaoe.eval.promoting import promote

DEMO_GATE = Path(__file__).parents[3] / "configs" / "demo" / "gate.yaml"
CREATED = datetime(2026, 1, 1, tzinfo=UTC)


def _control(is_broken: bool = False) -> Control:
    gap = Estimate(value=0.0 if is_broken else 0.6, n=96)
    return Control(matched=0.7, shuffled=0.1, auc=0.99, gap=gap, n_wrong=960, is_broken=is_broken)


def _cell(name: str, adapter: str | None = "demo", **changes: Any) -> Cell:
    metrics = {
        "attribute.mean": Estimate(value=0.85, n=96, low=0.83, high=0.87),
        "judged_anime": Estimate(value=1.0, n=96, low=1.0, high=1.0),
        "background_copy_ratio": Estimate(value=1.24, n=96, low=0.8, high=2.2),
        "clip_i": Estimate(value=0.71, n=96, low=0.69, high=0.73),
        "fd_judge": Estimate(value=4.0, n=96),
    }
    values: dict[str, Any] = {
        "title": name,
        "base": "toy/anime",
        "prompt": None,
        "n": 96,
        "metrics": metrics,
        "controls": {"clip_i": _control()},
    }
    return Cell(name=name, adapter=adapter, **values | changes)


def _report(**changes: Any) -> Report:
    values: dict[str, Any] = {
        "title": "of today",
        "adapters": {"demo": "0" * 64, "best": "1" * 64},
        "checks": [Check(name="identical", passed=True, detail="identical pictures score 1.")],
        "cells": [
            _cell("real-photo", None, controls={}),
            _cell("photo-adapter"),
            _cell("anime-adapter"),
            _cell("anime-adapter-best", "best"),
        ],
    }
    return Report(**values | changes)


def _gate(*thresholds: dict[str, Any], **require: Any) -> GateConfig:
    first = {"cell": "photo-adapter", "metric": "attribute.mean", "at": ">=", "bound": 0.5}
    return GateConfig.model_validate({"thresholds": list(thresholds) or [first], "require": require})


def _threshold(**changes: Any) -> dict[str, Any]:
    return {"cell": "anime-adapter", "metric": "attribute.mean", "at": ">=", "bound": 0.8} | changes


def test_a_good_adapter_passes_the_gate_of_the_demo() -> None:
    assert misses(load_config(DEMO_GATE, GateConfig), _report(), {"demo"}) == []


@pytest.mark.parametrize(
    ("changes", "missed"),
    [
        ({"bound": 0.83}, None),
        ({"bound": 0.84}, "attribute.mean of anime-adapter is at the low end of its interval 0.83, needed >= 0.84"),
        ({"bound": 0.84, "counts": "value"}, None),
        ({"bound": 0.88, "counts": "value"}, "attribute.mean of anime-adapter is 0.85, needed >= 0.88"),
        ({"bound": 0.87, "counts": "high"}, None),
        ({"at": "<=", "bound": 0.87}, None),
        ({"at": "<=", "bound": 0.86}, "is at the high end of its interval 0.87, needed <= 0.86"),
        ({"at": "<=", "bound": 0.83, "counts": "low"}, None),
        ({"min_n": 96}, None),
        ({"min_n": 97}, "rests on 96 samples, needed 97"),
        (
            {"metric": "fd_judge", "at": "<=", "bound": 9.0},
            "fd_judge of anime-adapter has no interval, so its high end",
        ),
        ({"metric": "fd_judge", "at": "<=", "bound": 4.0, "counts": "value"}, None),
        ({"metric": "fid"}, "anime-adapter has no figure 'fid'"),
        ({"cell": "night"}, "the report has no cell 'night' (it has real-photo, photo-adapter,"),
        ({"cell": "anime-adapter-best"}, "is of adapter 'best', which is another"),
        ({"cell": "real-photo"}, "no cell of the gate was drawn with this adapter"),
    ],
)
def test_a_figure_is_held_against_its_bound(changes: dict[str, Any], missed: str | None) -> None:
    found = misses(_gate(_threshold(**changes)), _report(), {"demo"})
    assert len(found) == (missed is not None)
    if missed is not None:
        assert missed in found[0]


def test_what_is_no_number_reaches_nothing() -> None:
    cell = _cell("photo-adapter", metrics={"attribute.mean": Estimate(value=float("nan"), n=96)})
    for at in (">=", "<="):
        gate = _gate(_threshold(cell="photo-adapter", at=at, counts="value"))
        assert len(misses(gate, _report(cells=[cell]), {"demo"})) == 1


@pytest.mark.parametrize(
    ("report", "require", "missed"),
    [
        ({"checks": [Check(name="black", passed=False, detail="1.0.")]}, {}, "check 'black' failed (1.0)"),
        ({"checks": [Check(name="black", passed=None, detail="no CLIP")]}, {}, "could not be looked at (no CLIP)"),
        ({"checks": []}, {}, "the report has no checks"),
        ({"checks": []}, {"checks": False}, None),
        ({"flags": ["Stretched."]}, {}, "the report has a flag: Stretched"),
        ({"flags": ["Stretched."]}, {"no_flags": False}, None),
        ({}, {"controls": ["clip_i"]}, None),
        ({}, {"controls": ["attribute.mean"]}, "attribute.mean of photo-adapter has no control"),
        ({}, {"controls": ["dino_i"]}, "no cell of the gate has 'dino_i'"),
        (
            {"cells": [_cell("photo-adapter", controls={"clip_i": _control(is_broken=True)})]},
            {"controls": ["clip_i"]},
            "the control of clip_i of photo-adapter is broken (matched 0.7, shuffled 0.1)",
        ),
    ],
)
def test_what_is_required_besides_figures(report: dict[str, Any], require: dict[str, Any], missed: str | None) -> None:
    found = misses(_gate(**require), _report(**report), {"demo"})
    assert len(found) == (missed is not None)
    if missed is not None:
        assert missed in found[0]


@pytest.fixture
def weights(adapter: IPAdapter, tmp_path: Path) -> Path:
    path = tmp_path / "likeness.safetensors"
    save_adapter(adapter, path)
    return path


@pytest.fixture
def run(weights: Path, tmp_path: Path) -> Path:
    """The folder of a finished run."""
    folder = tmp_path / "run"
    folder.mkdir()
    shutil.copy(weights, folder / "adapter.safetensors")
    training = Training(
        base="toy/photo",
        base_hash="sha256:0",
        image_encoder="toy/image_encoder",
        image_encoder_hash="sha256:0",
        face_encoder=None,
        face_encoder_hash=None,
        dataset="rows",
        steps=10,
        samples_seen=80,
        metrics={"training": {"loss": 0.25}},
        code_version="0.1.0",
        recipe={},
    )
    manifest = vet_adapter(weights, "here").manifest("trained", CREATED)
    write_json(manifest.model_copy(update={"training": training}), folder / "adapter.json")
    return folder


Written = Callable[..., tuple[Path, Path]]


@pytest.fixture
def written(weights: Path, tmp_path: Path) -> Written:
    """Writes a report of the adapter, changed as told, and the demo's gate."""

    def write(**changes: Any) -> tuple[Path, Path]:
        report = _report(**{"adapters": {"demo": sha256_of(str(weights)), "best": "1" * 64}} | changes)
        (tmp_path / "report.json").write_text(report.model_dump_json())
        return tmp_path / "report.json", DEMO_GATE

    return write


def _files(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_a_trained_adapter_is_published_with_its_origin_and_the_figures(
    run: Path, written: Written, tmp_path: Path
) -> None:
    registry = tmp_path / "registry"
    promoted = promote(str(run), *written(), str(registry))
    assert promoted == ("trained", str(registry / "trained"), 5)
    entry = Registry(str(registry)).find("trained")
    assert Path(entry.where).read_bytes() == (run / "adapter.safetensors").read_bytes()
    assert entry.manifest.created == CREATED
    assert entry.manifest.training is not None
    metrics = entry.manifest.training.metrics
    assert metrics["training"] == {"loss": 0.25}
    assert metrics["promotion"]["anime-adapter attribute.mean"] == 0.85
    before = _files(registry)
    assert promote(str(run), *written(), str(registry)) == promoted
    assert _files(registry) == before


def test_a_lone_file_is_published_as_an_upload_would_be(weights: Path, written: Written, tmp_path: Path) -> None:
    registry = tmp_path / "registry"
    assert promote(str(weights), *written(), str(registry)).name == "likeness"
    entry = Registry(str(registry)).find("likeness")
    assert entry.manifest == vet_adapter(weights, "here").manifest("likeness", entry.manifest.created)
    before = _files(registry)
    promote(str(weights), *written(), str(registry))
    assert _files(registry) == before
    promote(str(weights), *written(), str(registry), "other")
    assert Registry(str(registry)).find("other").manifest.name == "other"


def test_an_adapter_goes_from_one_registry_to_another(run: Path, written: Written, tmp_path: Path) -> None:
    staging, serving = str(tmp_path / "staging"), str(tmp_path / "serving")
    promote(str(run), *written(), staging)
    promote(f"{staging}/trained", *written(), serving)
    assert Registry(serving).find("trained").manifest == Registry(staging).find("trained").manifest


def test_the_report_of_another_adapter_is_refused(run: Path, written: Written, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="is not of .* but of demo 000000000000; evaluate this very file"):
        promote(str(run), *written(adapters={"demo": "0" * 64}), str(tmp_path / "registry"))
    assert not (tmp_path / "registry").exists()


def test_the_cells_of_another_adapter_of_the_same_report_do_not_count(
    run: Path, written: Written, tmp_path: Path
) -> None:
    swapped = {"best": sha256_of(str(run / "adapter.safetensors")), "demo": "1" * 64}
    with pytest.raises(DataError, match="cell 'photo-adapter' is of adapter 'demo', which is another"):
        promote(str(run), *written(adapters=swapped), str(tmp_path / "registry"))


def test_every_miss_is_named_and_nothing_is_published(run: Path, written: Written, tmp_path: Path) -> None:
    gate = tmp_path / "gate.yaml"
    gate.write_text(
        yaml.safe_dump({"thresholds": [_threshold(bound=0.9), _threshold(metric="judged_anime", min_n=400)]})
    )
    report, _ = written(checks=[])
    with pytest.raises(DataError) as caught:
        promote(str(run), report, gate, str(tmp_path / "registry"))
    said = str(caught.value)
    assert "misses 3: attribute.mean of anime-adapter is at the low end of its interval 0.83, needed >= 0.9; " in said
    assert "judged_anime of anime-adapter rests on 96 samples, needed 400; the report has no checks" in said
    assert not (tmp_path / "registry").exists()


def test_what_cannot_be_promoted_is_said_in_a_sentence(
    run: Path, weights: Path, written: Written, tmp_path: Path
) -> None:
    registry = str(tmp_path / "registry")
    with pytest.raises(ConfigError, match="'a/b'"):
        promote(str(weights), *written(), registry, "a/b")
    with pytest.raises(AdapterError, match="does not exist"):
        promote(str(tmp_path / "none.safetensors"), *written(), registry)
    (run / "adapter.json").write_text("{}")
    with pytest.raises(DataError, match="cannot be read"):
        promote(str(run), *written(), registry)
    report, _ = written()
    for text, said in (("thresholds: []", "at least 1 item"), ("cells: []", "'thresholds' is missing")):
        (tmp_path / "gate.yaml").write_text(text)
        with pytest.raises(ConfigError, match=said):
            promote(str(weights), report, tmp_path / "gate.yaml", registry)
    assert not (tmp_path / "registry").exists()


def test_the_command_publishes_or_exits_with_2(
    run: Path, written: Written, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    app = typer.Typer()
    app.command("promote")(promote_command)
    app.command("other")(lambda: None)
    registry = str(tmp_path / "registry")
    # The folder of an evaluation stands for its report.
    arguments = ["promote", str(run), str(written()[0].parent), str(DEMO_GATE), "--registry", registry]
    result = CliRunner().invoke(app, [*arguments, "--name", "ours"], catch_exceptions=False)
    assert result.output == f"promoted {registry}/ours: 5 of 5 thresholds reached\n"
    written(flags=["Stretched thumbnails."])
    monkeypatch.setattr(cli, "app", app)
    monkeypatch.setattr(cli, "entry_points", lambda group: [])
    monkeypatch.setattr("sys.argv", ["nigaoe", *arguments, "--name", "again"])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 2
    assert "is not promoted, for it misses 1: the report has a flag: Stretched thumbnails" in capsys.readouterr().err
    assert not (tmp_path / "registry" / "again").exists()
