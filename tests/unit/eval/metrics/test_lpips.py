"""LPIPS' arithmetic against torchmetrics, on a trunk of random weights; without the real ones there is no LPIPS."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn
from torchmetrics.functional.image import lpips as theirs

from nigaoe.core.errors import BaseModelError, ImageError
from nigaoe.eval.metrics.lpips_diversity import LpipsDiversity
from nigaoe.eval.scoring.lpips import Lpips, Vgg16Trunk, read_heads


@pytest.fixture(scope="module")
def lpips() -> Lpips:
    torch.manual_seed(0)
    return Lpips(Vgg16Trunk().eval().requires_grad_(False), read_heads(), "random")


def _noise(seed: int, side: int = 32) -> Image.Image:
    return Image.fromarray(np.random.default_rng(seed).integers(0, 256, (side, side, 3), dtype=np.uint8))


def _as_torchvision(trunk: Vgg16Trunk) -> nn.Sequential:
    layers: list[nn.Module] = []
    for name, convolution in trunk.features.named_children():
        if int(name) > len(layers):
            layers.append(nn.MaxPool2d(2))
        layers += [convolution, nn.ReLU()]
    return nn.Sequential(*layers)


def test_names_are_torchvisions(lpips: Lpips) -> None:
    names = [int(name.split(".")[1]) for name in lpips.trunk.state_dict() if name.endswith("weight")]
    assert names == [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def test_the_arithmetic_is_torchmetrics(lpips: Lpips, monkeypatch: pytest.MonkeyPatch) -> None:
    # torchmetrics asks torchvision for the network, which has no place here.
    monkeypatch.setattr(theirs, "_get_tv_model_features", lambda *_: _as_torchvision(lpips.trunk))
    reference = theirs._LPIPS(net="vgg")
    a, b = _noise(0), _noise(1)
    x, y = (torch.from_numpy(np.asarray(image, np.float32).transpose(2, 0, 1)[None] / 127.5 - 1) for image in (a, b))
    assert lpips.distances([a], [b])[0] == pytest.approx(float(reference(x, y)), rel=1e-5)


def test_it_is_a_distance(lpips: Lpips) -> None:
    a, b = _noise(0), _noise(1)
    same, there, back = lpips.distances([a, a, b], [a, b, a])
    assert same == 0
    assert there == pytest.approx(back)
    assert there > 0


def test_sizes_must_agree(lpips: Lpips) -> None:
    with pytest.raises(ImageError, match="one size"):
        lpips.distances([_noise(0)], [_noise(0, 48)])


def test_diversity_is_the_mean_over_pairs(lpips: Lpips) -> None:
    metric = LpipsDiversity(lpips)
    shown = [_noise(i) for i in range(3)]
    metric.update(shown, "a")
    metric.update([shown[0]] * 2, "b")
    metric.update(shown[:1], "alone")
    values = dict(zip(metric.items().ids, metric.items().values, strict=True))
    pairs = lpips.distances([shown[0], shown[0], shown[1]], [shown[1], shown[2], shown[2]])
    assert values["a"] == pytest.approx(pairs.mean(), rel=1e-5)
    assert values["b"] == 0
    assert np.isnan(values["alone"])
    assert metric.compute().item() == pytest.approx(pairs.mean() / 2, rel=1e-5)


def test_without_the_real_weights_there_is_no_lpips(lpips: Lpips, tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="not there"):
        Lpips.load(tmp_path / "vgg16-397923af.pth")
    torch.save(lpips.trunk.state_dict(), tmp_path / "vgg16-397923af.pth")
    with pytest.raises(BaseModelError, match="would not be LPIPS"):
        Lpips.load(tmp_path / "vgg16-397923af.pth")
