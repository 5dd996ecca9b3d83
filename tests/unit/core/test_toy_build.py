"""The build of the toy world runs from pictures to folders, and twice the same seeds give the same weights."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from diffusers import StableDiffusionPipeline
from safetensors.torch import load_file

from nigaoe.core.toy.build.clip import ClipRecipe
from nigaoe.core.toy.build.stages import Build, Recipe, UNetStage

TINY = Recipe(
    people=6,
    vae_steps=2,
    decoder_steps=2,
    encoder=ClipRecipe(seed=0, steps=2, label_weight=0.5, identity_weight=1.0),
    scorer=ClipRecipe(seed=1, steps=2, label_weight=0.0, identity_weight=1.0),
    judge_steps=2,
    unets=(
        UNetStage("photo", "photo", None, 2, 1e-3, late=3.0),
        UNetStage("anime", "anime", "photo", 2, 1e-3, late=3.0),
    ),
)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{k}": v for file in files for k, v in load_file(file).items()}


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("built")
    Build(folder / "work", folder / "out", TINY).run()
    return folder


def test_a_build_ends_in_folders_that_the_ordinary_pipeline_loads(built: Path) -> None:
    for style in ("photo", "anime"):
        pipeline = StableDiffusionPipeline.from_pretrained(built / "out" / style, dtype=torch.float32)
        pipeline.set_progress_bar_config(disable=True)
        assert pipeline("a photo of a man", num_inference_steps=1).images[0].size == (96, 96)


@pytest.mark.slow
def test_the_same_recipe_builds_the_same_weights(built: Path, tmp_path: Path) -> None:
    Build(tmp_path / "work", tmp_path / "out", TINY).run()
    first, second = _weights(built / "out"), _weights(tmp_path / "out")
    assert first.keys() == second.keys()
    assert all(torch.equal(first[key], second[key]) for key in first)


def test_a_build_goes_on_where_it_stopped(built: Path) -> None:
    kept = built / "work" / "photo" / "unet" / "diffusion_pytorch_model.safetensors"
    before = kept.stat().st_mtime_ns
    Build(built / "work", built / "again", replace(TINY, judge_steps=99)).run()
    assert kept.stat().st_mtime_ns == before
    assert _weights(built / "again").keys() == _weights(built / "out").keys()
