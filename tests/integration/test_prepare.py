"""Preparing on Ray: two pools, bad pictures, killed processes, and each row once whatever happens."""

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from PIL import Image

from nigaoe.core.errors import DataError
from nigaoe.core.toy.portraits import write_portraits
from nigaoe.train.cluster import connected
from nigaoe.train.config import TrainConfig
from nigaoe.train.preparing.prepare import prepare
from nigaoe.train.samples.prepared import PreparedDataset

TIMEOUT_S = 240

# Ray Data warns of settings of its own whenever it copies its context.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:ray.*")


@pytest.fixture(scope="module")
def portraits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("portraits")
    write_portraits(folder, people=24, scenes=2, split="train", seed=0)
    for path in list(folder.glob("*_1.jpg"))[::2]:
        with Image.open(path) as image:
            image.resize((144, 96)).save(path)
    return folder


@pytest.fixture(scope="module")
def cluster(portraits: Path) -> Iterator[None]:
    config = _config(portraits, portraits)
    with connected(config.cluster, extra_cpus=config.cluster.num_workers * config.cluster.decoders):
        yield


def _config(portraits: Path, out: Path, **data: Any) -> TrainConfig:
    return TrainConfig.model_validate(_values(portraits, out, **data))


def _values(portraits: Path, out: Path, **data: Any) -> dict[str, Any]:
    return {
        "name": "test",
        "out": str(out / "run"),
        "base": "toy/photo",
        "image_encoder": "toy/image_encoder",
        "data": {
            "source": str(portraits / "captions.csv"),
            "prepared": str(out / "prepared"),
            "shard_rows": 2,
            "aspect_ratios": 3,
            **data,
        },
        "steps": 1,
        "batch_size": 2,
        "cluster": {"num_workers": 1, "decoders": 1},
    }


def _keys(folder: Path) -> list[str]:
    dataset = PreparedDataset.open(folder)
    return [key for bucket, rows in enumerate(dataset.bucket_rows) for key in dataset.keys(bucket, torch.arange(rows))]


def _shards(folder: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("shard-*.safetensors")}


def _wait_for_shards(folder: Path, count: int) -> None:
    deadline = time.monotonic() + TIMEOUT_S
    while len(_shards(folder)) < count:
        assert time.monotonic() < deadline, "no shard was written"
        time.sleep(0.01)


def _encoders() -> list[int]:
    """Process ids of the actors that encode, of this process's own cluster."""
    found = []
    for folder in Path("/proc").glob("[0-9]*"):
        try:
            title = (folder / "cmdline").read_text()
            if "EncodingProcess" in title and os.getpid() in _ancestors(int(folder.name)):
                found.append(int(folder.name))
        except OSError:
            continue
    return found


def _ancestors(process: int) -> Iterator[int]:
    while process > 1:
        process = int(Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[1])
        yield process


@pytest.mark.timeout(600)
def test_bad_pictures_are_listed_and_a_killed_encoder_is_made_up_for(
    cluster: None, portraits: Path, tmp_path: Path
) -> None:
    config, folder = _config(portraits, tmp_path), tmp_path / "prepared"
    cut, headless = portraits / "00003_0.jpg", portraits / "00005_0.jpg"
    whole = {path: path.read_bytes() for path in (cut, headless)}
    cut.write_bytes(whole[cut][:1500])
    headless.write_bytes(b"no picture")
    with pytest.raises(DataError, match="2 of 48 rows cannot be used, all listed in .*data.quarantine") as caught:
        prepare(config)
    assert "\n" not in str(caught.value)
    listing = (folder / "bad_files.txt").read_text()
    assert "00003_0.jpg' is damaged or truncated" in listing
    assert "00005_0.jpg' is not a picture" in listing
    kept = _shards(folder)
    assert len(kept) > 12

    for path, content in whole.items():
        path.write_bytes(content)
    for name in list(kept)[:-8]:
        (folder / name).unlink()
    victims: list[int] = []

    def kill() -> None:
        _wait_for_shards(folder, 12)
        victims.extend(_encoders())
        for victim in victims:
            os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    manifest = prepare(config)
    killer.join()
    assert len(victims) == 1
    left = set(list(kept)[-8:])
    assert {name: time for name, time in _shards(folder).items() if name in left} == {n: kept[n] for n in left}
    assert sorted(_keys(folder)) == sorted(path.name for path in portraits.glob("*.jpg"))
    assert manifest.rows == 48
    assert len(manifest.buckets) == 2
    assert not (folder / "bad_files.txt").exists()
    assert not list(folder.glob("*.part"))
    before = _shards(folder)
    assert prepare(config).fingerprint == manifest.fingerprint
    assert _shards(folder) == before


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_killed_job_goes_on_where_it_was(portraits: Path, tmp_path: Path) -> None:
    (tmp_path / "train.yaml").write_text(yaml.safe_dump(_values(portraits, tmp_path, shard_rows=1)))
    command = [sys.executable, "-m", "nigaoe.core.cli", "prepare", str(tmp_path / "train.yaml")]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True)
    folder = tmp_path / "prepared"
    try:
        _wait_for_shards(folder, 5)
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
    # Processes of the cluster notice that it is gone, and may finish a shard before they do.
    time.sleep(5)
    kept = _shards(folder)
    assert 5 <= len(kept) < 48
    assert not (folder / "manifest.json").exists()
    result = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT_S)
    assert result.returncode == 0, result.stderr
    assert "prepared 48 images of 24 identities" in result.stdout
    assert kept.items() <= _shards(folder).items()
    assert len(_shards(folder)) == 48
    assert sorted(_keys(folder)) == sorted(path.name for path in portraits.glob("*.jpg"))
