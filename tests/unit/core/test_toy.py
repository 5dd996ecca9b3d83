"""The toy world: reproducible people, weights of the promised size that anybody's pipeline loads, a judge that sees."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline
from transformers import CLIPVisionModelWithProjection

from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.errors import BaseModelError
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from nigaoe.core.models import TOY_WEIGHTS, locate
from nigaoe.core.toy.judge import Judge
from nigaoe.core.toy.people import ATTRIBUTES, STYLES, Style, caption, sample_identity_of, sample_scene, split_of
from nigaoe.core.toy.portraits import SPLITS
from nigaoe.core.toy.render import SIZE_PX, render


def test_a_picture_is_a_function_of_its_arguments() -> None:
    rng = random.Random(0)
    identity, scene = sample_identity_of("train", rng), sample_scene(rng)
    first, second = (np.asarray(render(identity, scene, "photo")) for _ in range(2))
    assert first.shape == (SIZE_PX, SIZE_PX, 3)
    assert np.array_equal(first, second)
    assert not np.array_equal(first, np.asarray(render(identity, scene, "anime")))


def test_splits_share_nobody() -> None:
    rng = random.Random(1)
    for split in SPLITS:
        assert all(split_of(sample_identity_of(split, rng)) == split for _ in range(50))


def test_captions_name_only_what_is_there() -> None:
    rng = random.Random(2)
    for _ in range(200):
        identity, scene = sample_identity_of("train", rng), sample_scene(rng)
        full, bare = (caption(identity, scene, "photo", rng, density) for density in (1.0, 0.0))
        assert ("glasses" in full) == (identity.glasses > 0)
        assert ("hat" in full) == (identity.headwear > 0)
        assert ATTRIBUTES["hair"][identity.hair] in full
        assert "hair" not in bare


def test_all_weights_together_stay_under_25_mb() -> None:
    assert sum(path.stat().st_size for path in TOY_WEIGHTS.rglob("*") if path.is_file()) < 25_000_000


@pytest.mark.parametrize("style", STYLES)
def test_the_ordinary_pipeline_loads_a_base(style: Style) -> None:
    pipeline = StableDiffusionPipeline.from_pretrained(locate(f"toy/{style}"), dtype=torch.float32)
    pipeline.set_progress_bar_config(disable=True)
    image = pipeline("a photo of a man", num_inference_steps=2).images[0]
    assert image.size == (SIZE_PX, SIZE_PX)


@pytest.mark.parametrize("style", STYLES)
def test_the_judge_sees_people_it_never_met(style: Style) -> None:
    judge = Judge.load(Path(locate("toy/judge")) / "judge.safetensors")
    rng = random.Random(3)
    people = [sample_identity_of("validation", rng) for _ in range(40)]
    pixels = np.stack([np.asarray(render(p, sample_scene(rng), style)) for p in people]).transpose(0, 3, 1, 2)
    answers = judge.answers(torch.from_numpy(pixels).float() / 127.5 - 1)
    truth = torch.tensor([p.labels() for p in people])
    right = [(answers[name] == truth[:, j]).float().mean().item() for j, name in enumerate(ATTRIBUTES)]
    assert min(right) > 0.9
    assert (answers["medium"] == STYLES.index(style)).all()


def test_the_encoder_knows_people_across_scenes(encoder: ImageEncoder) -> None:
    rng = random.Random(4)
    people = [sample_identity_of("validation", rng) for _ in range(24)]
    one, other = (encoder.encode([render(p, sample_scene(rng), "photo") for p in people]) for _ in range(2))
    similarity = torch.nn.functional.normalize(one) @ torch.nn.functional.normalize(other).T
    assert (similarity.argmax(1) == torch.arange(24)).float().mean() > 0.9


def test_the_shipped_adapter_fits_both_bases(base: Base) -> None:
    adapter = load_adapter(Path(locate("toy/adapter", "adapter")) / "adapter.safetensors")
    for unet in (base.unet, load_base("toy/anime").unet):
        adapter.require_fit(unet)
    assert adapter.num_tokens == 4


def test_an_encoder_without_all_its_weights_is_refused(tmp_path: Path) -> None:
    model = CLIPVisionModelWithProjection.from_pretrained(locate("toy/image_encoder"))
    state = {k: v for k, v in model.state_dict().items() if "visual_projection" not in k}
    model.save_pretrained(tmp_path, state_dict=state)
    with pytest.raises(BaseModelError, match="visual_projection"):
        load_image_encoder(str(tmp_path))


@pytest.mark.parametrize("name", ["toy/watercolour", "./nowhere", "a/b/c", ""])
def test_unknown_names_are_refused(name: str) -> None:
    with pytest.raises(BaseModelError, match=name or "''"):
        locate(name)
