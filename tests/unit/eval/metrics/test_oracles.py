"""Our figures beside those of clean-fid, pytorch-fid and torch-fidelity, on the same features or the same pictures."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from nigaoe.eval.metrics.frechet import frechet_distance
from nigaoe.eval.metrics.kid import cubic_kernel
from nigaoe.eval.metrics.mmd import mmd2
from nigaoe.eval.metrics.moments import Moments
from nigaoe.eval.metrics.precision_recall import precision_recall

ORACLES = Path(__file__).parents[4] / ".venv" / "oracles"

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not ORACLES.is_dir(), reason="no other implementations here; run infra/test-oracles.sh"),
]


def _features(n: int, dim: int, shift: float) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(7)
    mix = rng.normal(size=(dim, dim)) / np.sqrt(dim)
    real, fake = (np.maximum(rng.normal(size=(n, dim)) @ mix + bias, -0.2) for bias in (0.0, shift))
    return real, fake


def _theirs(real: np.ndarray, fake: np.ndarray, folder: Path) -> dict[str, Any]:
    np.savez(folder / "features.npz", real=real, fake=fake)
    return _run("distances", folder / "features.npz")


def _run(task: str, argument: Path) -> dict[str, Any]:
    command = [sys.executable, str(Path(__file__).with_name("oracle_runner.py")), str(ORACLES), task, str(argument)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.parametrize("shift", [0.0, 0.3])
def test_full_rank_agrees_to_a_millionth(shift: float, tmp_path: Path) -> None:
    real, fake = _features(400, 48, shift)
    theirs = _theirs(real, fake, tmp_path)
    distance = frechet_distance(Moments.of(real), Moments.of(fake))
    assert theirs["clean-fid fid"] == pytest.approx(distance, rel=1e-6)
    assert theirs["pytorch-fid fid"] == pytest.approx(distance, rel=1e-6)
    assert theirs["torch-fidelity fid"]["frechet_inception_distance"] == pytest.approx(distance, rel=1e-6)
    kid = mmd2(real, fake, cubic_kernel, is_unbiased=True).value
    assert theirs["clean-fid kid"] == pytest.approx(kid, rel=1e-6)
    assert theirs["torch-fidelity kid"]["kernel_inception_distance_mean"] == pytest.approx(kid, rel=1e-6)
    precision, recall = precision_recall(real, fake)
    assert theirs["torch-fidelity prc"]["precision"] == pytest.approx(precision, abs=1e-6)
    assert theirs["torch-fidelity prc"]["recall"] == pytest.approx(recall, abs=1e-6)
    assert 0.1 < recall < 1.0, "all or nothing would agree whatever the definition"


def test_fewer_samples_than_features_agree_as_far_as_a_square_root_goes(tmp_path: Path) -> None:
    real, fake = _features(60, 96, 0.3)
    distance = frechet_distance(Moments.of(real), Moments.of(fake))
    theirs = _theirs(real, fake, tmp_path)
    assert theirs["torch-fidelity fid"]["frechet_inception_distance"] == pytest.approx(distance, rel=1e-4)
    assert theirs["clean-fid fid"] == pytest.approx(distance, rel=1e-4)


def test_fids_inception_is_torch_fidelitys(tmp_path: Path) -> None:
    """By random weights: the published ones are a file of their own, which no package carries."""
    told = _run("inception", tmp_path)
    with np.load(tmp_path / "features.npz") as arrays:
        theirs, ours, floats, again = (arrays[name] for name in ("theirs", "ours", "floats", "again"))
    assert ours.shape == (6, 2048)
    assert theirs.std(axis=0).mean() > 1e-3 * np.abs(theirs).max(), "all pictures would look alike to it"
    assert np.abs(ours - theirs).max() <= 1e-5 * np.abs(theirs).max()
    assert np.array_equal(ours, floats)
    assert np.array_equal(ours, again)
    assert not told["trains"]
    space = told["space"]
    assert (space["extractor"], space["dim"], space["fingerprint"]) == ("inception", 2048, told["hash"])
    assert space["preprocessing"] == "299 x 299 px bilinear as in TensorFlow 1, less 128, over 128"


def test_torch_fidelity_without_torchvision_is_said(tmp_path: Path) -> None:
    said = _run("without_torchvision", tmp_path)["said"]
    assert "No module named 'torchvision'" in said
    assert "install the torchvision that fits your torch" in said
