"""What stops a run says so in one sentence, and loses nothing."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.running.checkpoints import is_whole
from training_runs import TIMEOUT_S, run, start, wait_for_step, write_config

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]


@pytest.fixture(scope="module")
def dataset(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("data")
    write_portraits(folder / "portraits", people=16, scenes=2, split="train", seed=0)
    run("prepare", write_config(folder, folder / "unused", steps=1))
    return folder


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk with room for three checkpoints of the toy adapter and their making."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=7m", "tmpfs", str(folder)], check=False)
    if mounted.returncode:
        pytest.skip("may not mount a disk here")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def _failure(config: Path) -> str:
    process = start("train", config)
    try:
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 2, output
    sentences = [line for line in output.splitlines() if line.startswith("nigaoe: ")]
    assert len(sentences) == 1, output
    assert "Traceback" not in output
    return sentences[0]


def _checkpoints(out: Path) -> list[int]:
    folders = [folder for folder in (out / "checkpoints" / "test").glob("checkpoint_*/") if is_whole(folder)]
    return sorted(json.loads((folder / "nigaoe.json").read_text())["step"] for folder in folders)


def test_a_full_disk_is_named_and_room_on_it_lets_the_run_go_on(dataset: Path, small_disk: Path) -> None:
    cluster = {"max_failures": 1}
    config = write_config(dataset, small_disk, steps=40, checkpoint_every=5, keep_checkpoints=40, cluster=cluster)
    sentence = _failure(config)
    assert "disk is full" in sentence
    assert "start it again with the same name" in sentence
    kept = _checkpoints(small_disk)
    assert kept
    subprocess.run(["mount", "-o", "remount,size=200m", str(small_disk)], check=True)
    run("train", config)
    assert (small_disk / "adapter.safetensors").is_file()
    assert set(kept) <= set(_checkpoints(small_disk))
    assert all(is_whole(folder) for folder in (small_disk / "checkpoints" / "test").glob("checkpoint_*/"))


def test_storage_that_disappears_is_named(dataset: Path, tmp_path: Path) -> None:
    config = write_config(dataset, tmp_path / "out", steps=400, checkpoint_every=20, cluster={"max_failures": 1})
    process = start("train", config)
    try:
        wait_for_step(tmp_path / "out", 25, process)
        (tmp_path / "out").rename(tmp_path / "elsewhere")
        (tmp_path / "out").write_text("no folder")
        output, _ = process.communicate(timeout=TIMEOUT_S)
    finally:
        process.kill()
    assert process.returncode == 2, output
    (sentence,) = [line for line in output.splitlines() if line.startswith("nigaoe: ")]
    assert str(tmp_path / "out") in sentence
    assert "Traceback" not in output
    (tmp_path / "out").unlink()
    (tmp_path / "elsewhere").rename(tmp_path / "out")
    assert 20 in _checkpoints(tmp_path / "out")


def test_numbers_that_are_none_end_the_run_with_the_names_of_the_pictures(dataset: Path, tmp_path: Path) -> None:
    config = write_config(
        dataset, tmp_path, steps=60, checkpoint_every=4, optimizer={"lr": 1e30, "warmup_steps": 0}, ema_decay=None
    )
    sentence = _failure(config)
    assert "is not a finite number, for the pictures" in sentence
    assert ".jpg" in sentence
    assert "lower optimizer.lr" in sentence
    # What was saved before is sound, and nothing was saved after.
    saved = _checkpoints(tmp_path)
    step = int(sentence.split("of step ")[1].split(" ")[0])
    assert all(done < step for done in saved)


def test_a_changed_recipe_is_told_and_can_be_forked(dataset: Path, tmp_path: Path) -> None:
    run("train", write_config(dataset, tmp_path / "first", steps=10))
    sentence = _failure(write_config(dataset, tmp_path / "first", steps=10, optimizer={"lr": 0.5}))
    assert "optimizer.lr is 0.5, was 0.001" in sentence
    fork = sentence.split("init_from=")[1].split(";")[0].strip()
    output = run("train", write_config(dataset, tmp_path / "fork", steps=5, name="fork", init_from=fork))
    assert "adapter.safetensors" in output
