"""Training for real: Ray, DeepSpeed, two workers; and what happens when they are killed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.toy.portraits import write_portraits

TIMEOUT_S = 240


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_portraits(folder / "portraits", people=16, scenes=2, split="train", seed=0)
    _run("prepare", _config(folder, folder / "unused", steps=1))
    return folder


def _config(dataset: Path, out: Path, steps: int, variant: str = "base") -> Path:
    config = {
        "name": "test",
        "out": str(out),
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {
            "source": str(dataset / "portraits" / "captions.csv"),
            "prepared": str(dataset / ("prepared" if variant == "base" else f"prepared-{variant}")),
            "shard_rows": 16,
            "reference": "other",
        },
        "adapter": {"variant": variant},
        "steps": steps,
        "batch_size": 4,
        "ema_decay": 0.9,
        "checkpoint_every": 10,
        "optimizer": {"lr": 1e-3},
        "tracking": {"mode": "disabled"},
    }
    out.mkdir(parents=True, exist_ok=True)
    path = out / "train.yaml"
    path.write_text(yaml.safe_dump(config))
    return path


def _start(verb: str, config: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "nigaoe.core.cli", verb, str(config)]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def _run(verb: str, config: Path) -> str:
    process = _start(verb, config)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
        process.wait()
    assert process.returncode == 0, output
    return output


def _metrics(out: Path) -> list[dict[str, Any]]:
    path = out / "metrics.jsonl"
    lines = path.read_text().splitlines() if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("}")]


def _starts(out: Path) -> list[dict[str, Any]]:
    return [line for line in _metrics(out) if line.get("event") == "start"]


def _wait_for_step(out: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while max((line["step"] for line in _metrics(out)), default=0) < step:
        assert process.poll() is None, process.stdout and process.stdout.read()
        assert time.monotonic() < deadline, "training never got that far"
        time.sleep(0.1)


def _same_weights(a: Path, b: Path) -> bool:
    first, second = (load_adapter(path / "adapter.safetensors").state_dict() for path in (a, b))
    return all(torch.equal(value, second[key]) for key, value in first.items())


@pytest.mark.timeout(600)
def test_two_workers_train_and_publish_an_adapter(dataset: Path, tmp_path: Path) -> None:
    output = _run("train", _config(dataset, tmp_path / "run", steps=12))
    assert "adapter.safetensors" in output
    manifest = json.loads((tmp_path / "run" / "adapter.json").read_text())
    assert manifest["steps"] == 12
    assert manifest["samples_seen"] == 12 * 4 * 2
    assert _starts(tmp_path / "run")[0]["world_size"] == 2
    load_adapter(tmp_path / "run" / "adapter.safetensors")


@pytest.mark.timeout(600)
def test_another_variant_trains_on_features_of_its_own(dataset: Path, tmp_path: Path) -> None:
    config = _config(dataset, tmp_path / "run", steps=3, variant="plus-face")
    _run("prepare", config)
    _run("train", config)
    adapter = load_adapter(tmp_path / "run" / "adapter.safetensors")
    assert adapter.variant.name == "plus"
    assert json.loads((tmp_path / "run" / "adapter.json").read_text())["variant"] == "plus"


@pytest.fixture(scope="module")
def uninterrupted(dataset: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole")
    _run("train", _config(dataset, out, steps=300))
    return out


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_worker_is_replaced_and_nothing_changes(dataset: Path, uninterrupted: Path, tmp_path: Path) -> None:
    process = _start("train", _config(dataset, tmp_path, steps=300))
    try:
        _wait_for_step(tmp_path, 30, process)
        os.kill(int(_starts(tmp_path)[0]["pid"]), signal.SIGKILL)
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 0, output
    starts = _starts(tmp_path)
    assert len(starts) == 2
    assert starts[1]["step"] >= 10
    assert starts[1]["step"] % 10 == 0
    assert _same_weights(uninterrupted, tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_a_killed_job_goes_on_under_the_same_name(dataset: Path, uninterrupted: Path, tmp_path: Path) -> None:
    config = _config(dataset, tmp_path, steps=300)
    process = _start("train", config)
    try:
        _wait_for_step(tmp_path, 30, process)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    time.sleep(5)
    _run("train", config)
    starts = _starts(tmp_path)
    assert len(starts) == 2
    assert starts[1]["step"] >= 10
    assert _same_weights(uninterrupted, tmp_path)


def test_another_config_under_the_same_name_is_refused(dataset: Path, tmp_path: Path) -> None:
    _config(dataset, tmp_path, steps=5)
    (tmp_path / "run.json").write_text(json.dumps({"dataset": "other", "steps": 7}))
    (tmp_path / "checkpoints" / "test" / "checkpoint_1").mkdir(parents=True)
    process = _start("train", tmp_path / "train.yaml")
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2
    assert "another config" in output


def test_damaged_pictures_are_listed_and_the_rest_is_kept(dataset: Path, tmp_path: Path) -> None:
    portraits = tmp_path / "portraits"
    portraits.mkdir()
    for path in (dataset / "portraits").iterdir():
        (portraits / path.name).write_bytes(path.read_bytes())
    broken = portraits / "00015_1.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:500])
    (portraits / "00015_0.jpg").unlink()
    config = _config(tmp_path, tmp_path / "out", steps=1)
    process = _start("prepare", config)
    output, _ = process.communicate(timeout=TIMEOUT_S)
    assert process.returncode == 2, output
    listing = (tmp_path / "prepared" / "bad_files.txt").read_text()
    assert "00015_1.jpg" in listing
    assert "00015_0.jpg" in listing
    kept = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "prepared").glob("shard-*.safetensors")}
    assert len(kept) == 1
    broken.write_bytes(whole)
    (portraits / "00015_0.jpg").write_bytes(whole)
    _run("prepare", config)
    again = {p.name: p.stat().st_mtime_ns for p in (tmp_path / "prepared").glob("shard-*.safetensors")}
    assert kept.items() <= again.items()
    assert len(again) == 2
