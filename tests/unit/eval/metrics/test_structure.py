"""SSIM and MS-SSIM: torchmetrics' own figures, the range said, the size checked, and what they fall under."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from torchmetrics.image import MultiScaleStructuralSimilarityIndexMeasure, StructuralSimilarityIndexMeasure

from nigaoe.core.errors import DataError, ImageError
from nigaoe.eval.metrics.gates import damage_gates
from nigaoe.eval.metrics.ms_ssim import BETAS, MsSsim, min_side, scales_for
from nigaoe.eval.metrics.ssim import Ssim
from nigaoe.eval.scoring.damages import DAMAGES
from toy_people import People


def _pair(side: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[0:side, 0:side] / side
    smooth = np.stack([np.sin(9 * x + k) + np.cos(7 * y * (k + 1)) for k in range(3)], axis=2) / 4 + 0.5
    return tuple(((smooth + rng.normal(0, s, smooth.shape)).clip(0, 1) * 255).astype(np.uint8) for s in (0, 0.1))  # type: ignore[return-value]


def _floats(*pictures: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack(pictures).transpose(0, 3, 1, 2)).double() / 255


def _theirs(a: np.ndarray, b: np.ndarray) -> float:
    return float(StructuralSimilarityIndexMeasure(data_range=1.0)(_floats(a), _floats(b)))


def test_ssim_is_torchmetrics() -> None:
    pairs = [_pair(64, seed) for seed in range(3)]
    metric = Ssim()
    metric.update([a for a, _ in pairs], [b for _, b in pairs], ["0", "1", "2"])
    np.testing.assert_allclose(metric.items().values, [_theirs(*pair) for pair in pairs], rtol=0, atol=1e-6)
    theirs = StructuralSimilarityIndexMeasure(data_range=1.0)
    theirs.update(*(_floats(*(pair[k] for pair in pairs)) for k in (0, 1)))
    assert metric.compute().item() == pytest.approx(torch.as_tensor(theirs.compute()).item(), abs=1e-6)


@given(st.integers(0, 255), st.integers(0, 255))
def test_flat_pictures_have_a_closed_form(a: int, b: int) -> None:
    metric = Ssim()
    first, second = (np.full((12, 15, 3), level, np.uint8) for level in (a, b))
    metric.update([first], [second], ["0"])
    x, y = a / 255, b / 255
    assert metric.compute().item() == pytest.approx((2 * x * y + 1e-4) / (x * x + y * y + 1e-4), abs=1e-6)


@pytest.mark.parametrize(("side", "scales"), [(176, 5), (181, 5), (99, 4), (51, 3)])
def test_ms_ssim_is_torchmetrics(side: int, scales: int) -> None:
    a, b = _pair(side)
    metric = MsSsim(scales=scales)
    # The second pair is a negative: its finest scales are anti-correlated.
    metric.update([a, a], [b, 255 - a], ["0", "1"])
    theirs = MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0, betas=metric.betas, reduction="none")
    theirs.update(_floats(a, a), _floats(b, 255 - a))
    np.testing.assert_allclose(metric.items().values, theirs.compute().numpy(), rtol=0, atol=1e-6)


def test_a_dark_batch_is_not_stretched() -> None:
    # With data_range=None torchmetrics would divide by this batch's own range and find the pictures far apart.
    a, b = (picture // 16 for picture in _pair(64))
    metric = Ssim()
    metric.update([a], [b], ["0"])
    assert metric.compute().item() == pytest.approx(_theirs(a, b), abs=1e-6)
    stretched = float(StructuralSimilarityIndexMeasure()(_floats(a), _floats(b)))
    assert abs(stretched - _theirs(a, b)) > 0.1


def test_a_figure_does_not_hang_on_who_else_is_in_the_batch() -> None:
    pairs = [_pair(48, seed) for seed in range(4)]
    together, apart = Ssim(), Ssim()
    together.update([a for a, _ in pairs], [b for _, b in pairs], list("abcd"))
    for name, (a, b) in zip("dcab", [pairs[3], pairs[2], pairs[0], pairs[1]], strict=True):
        apart.update([a], [b], [name])
    assert np.array_equal(together.items().values, apart.items().values)


@pytest.mark.parametrize("scales", [1, 2, 3, 4, 5])
def test_the_smallest_side_is_really_the_smallest(scales: int) -> None:
    side = min_side(scales)
    assert scales_for(side) == scales
    assert scales_for(side - 1) == scales - 1 if scales > 1 else True
    a, b = _pair(side)
    metric = MsSsim(scales=scales)
    metric.update([a, a], [b, a], ["far", "same"])
    values = metric.items().values
    assert values[1] == pytest.approx(1.0)
    assert 0 < values[0] < 1
    with pytest.raises(ImageError, match=f"{side} px and more"):
        metric.update([a[:-1]], [b[:-1]], ["small"])


def test_161_px_are_not_enough_for_five_scales() -> None:
    assert min_side(5) == 176
    a, b = _pair(161)
    with pytest.raises(ImageError, match=r"scales=4"):
        MsSsim().update([a], [b], ["0"])
    with pytest.raises(ValueError, match="160"):
        MultiScaleStructuralSimilarityIndexMeasure(data_range=1.0)(_floats(a), _floats(b))


def test_fewer_scales_are_another_figure() -> None:
    three = MsSsim(scales=3)
    assert three.name == "ms_ssim_3"
    assert sum(three.betas) == pytest.approx(1.0)
    assert three.betas[1] / three.betas[0] == pytest.approx(BETAS[1] / BETAS[0])
    with pytest.raises(DataError, match="ms_ssim_3"):
        MsSsim().merge_state(three)
    with pytest.raises(ValueError, match=r"outside 1\.\.5"):
        MsSsim(scales=6)
    with pytest.raises(ValueError, match="window"):
        scales_for(10)


def test_sizes_must_agree() -> None:
    with pytest.raises(ImageError, match="one size"):
        Ssim().update([_pair(64)[0]], [_pair(48)[0]], ["0"])


@pytest.mark.parametrize("metric", [Ssim(), MsSsim(scales=3)], ids=lambda metric: metric.name)
def test_mixed_up_pairs_lower_it(metric: Ssim, people: People) -> None:
    noisy = [DAMAGES["noise"][0](image, 0.05) for image in people.images]
    metric.update(noisy, people.images, people.ids)
    control = metric.control()
    assert not control.is_broken
    assert control.n_shuffled == 12
    given = type(metric)() if metric.name == "ssim" else MsSsim(scales=3)
    given.update(noisy, people.images, people.ids, wrong=people.images)
    # The right references in the place of wrong ones: nothing falls.
    assert given.control().is_broken


def test_a_batch_of_one_has_no_wrong_pair_unless_it_is_given(people: People) -> None:
    metric = Ssim()
    metric.update(people.images[:1], people.others[:1], ["0"])
    assert metric.control().is_broken
    metric.reset()
    metric.update(people.images[:2], people.others[:2], ["0", "1"], ["one", "one"])
    assert metric.control().n_shuffled == 0


@pytest.mark.parametrize("name", ["ssim", "ms_ssim_3"])
def test_it_falls_under_every_damage(name: str, people: People) -> None:
    def score(pictures: object) -> float:
        metric = Ssim() if name == "ssim" else MsSsim(scales=3)
        assert isinstance(pictures, list)
        metric.update(pictures, people.images[:4], people.ids[:4])
        return float(metric.compute())

    gates = damage_gates(name, "", score, people.images[:4])
    assert len(gates) == 3
    assert all(gate.is_passed for gate in gates), [gate.line() for gate in gates]


def test_a_damage_is_the_same_every_time(people: People) -> None:
    for damage, strengths in DAMAGES.values():
        spoilt = [damage(people.images[0], strengths[-1]) for _ in range(2)]
        assert isinstance(spoilt[0], Image.Image)
        assert np.array_equal(np.asarray(spoilt[0]), np.asarray(spoilt[1]))
        assert not np.array_equal(np.asarray(spoilt[0]), np.asarray(people.images[0]))
