"""Keys and parameter counts at full size, on the meta device, against the published files."""

import pytest
import torch
from diffusers import UNet2DConditionModel

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.variants import Feature

VIT_H: dict[Feature, int] = {"image_embeds": 1024, "hidden_states": 1280}
VIT_G: dict[Feature, int] = {"image_embeds": 1280, "hidden_states": 1664}

CROSS = {
    "sd15": list(range(1, 32, 2)),
    "sd2": list(range(1, 32, 2)),
    "sdxl": list(range(1, 140, 2)),
}
COUNTS = [
    ("sd15", "base", VIT_H, 22_319_616),
    ("sd15", "light", VIT_H, 22_319_616),
    ("sd15", "vit-g", VIT_G, 23_106_048),
    ("sd15", "plus", VIT_H, 49_087_488),
    ("sd15", "plus-face", VIT_H, 49_087_488),
    ("sd15", "full-face", VIT_H, 21_794_304),
    ("sd15", "faceid", VIT_H, 48_354_816),
    ("sd15", "faceid-plus", VIT_H, 78_260_736),
    ("sd15", "faceid-plusv2", VIT_H, 78_260_736),
    ("sd15", "portrait", VIT_H, 32_291_328),
    ("sd2", "base", VIT_H, 29_759_488),
    ("sd2", "vit-g", VIT_G, 30_808_064),
    ("sd2", "plus", VIT_H, 74_100_736),
    ("sdxl", "base", VIT_H, 349_188_096),
    ("sdxl", "vit-g", VIT_G, 351_285_248),
    ("sdxl", "plus", VIT_H, 423_748_864),
    ("sdxl", "faceid", VIT_H, 535_507_968),
    ("sdxl", "faceid-plusv2", VIT_H, 743_707_648),
    ("sdxl", "portrait", VIT_H, 374_903_808),
]


@pytest.mark.parametrize(("base", "variant", "features", "published"), COUNTS)
def test_an_adapter_is_as_large_as_the_published_one(
    real_unets: dict[str, UNet2DConditionModel], base: str, variant: str, features: dict[Feature, int], published: int
) -> None:
    with torch.device("meta"):
        adapter = IPAdapter.for_unet(real_unets[base], variant, features=features)
    assert sum(parameter.numel() for parameter in adapter.parameters()) == published


@pytest.mark.parametrize("base", CROSS)
def test_layers_are_numbered_as_published(real_unets: dict[str, UNet2DConditionModel], base: str) -> None:
    with torch.device("meta"):
        plain, face = (IPAdapter.for_unet(real_unets[base], v, features=VIT_H) for v in ("base", "faceid"))
    numbers = {int(key.split(".")[1]) for key in plain.state_dict() if key.startswith("ip_adapter.")}
    assert sorted(numbers) == CROSS[base]
    assert {int(key.split(".")[1]) for key in face.state_dict() if "_lora." in key} == set(range(CROSS[base][-1] + 1))


def test_the_keys_of_plus_are_the_published_ones(real_unets: dict[str, UNet2DConditionModel]) -> None:
    with torch.device("meta"):
        adapter = IPAdapter.for_unet(real_unets["sd15"], "plus", features=VIT_H)
    keys = {key.removeprefix("image_proj.") for key in adapter.state_dict() if key.startswith("image_proj.")}
    ends = ("proj_in", "proj_out", "norm_out")
    expected = {"latents", *(f"{name}.{part}" for name in ends for part in ("weight", "bias"))}
    for i in range(4):
        expected |= {f"layers.{i}.0.{norm}.{part}" for norm in ("norm1", "norm2") for part in ("weight", "bias")}
        expected |= {f"layers.{i}.0.{name}.weight" for name in ("to_q", "to_kv", "to_out")}
        expected |= {
            f"layers.{i}.1.0.weight",
            f"layers.{i}.1.0.bias",
            f"layers.{i}.1.1.weight",
            f"layers.{i}.1.3.weight",
        }
    assert keys == expected
    assert adapter.state_dict()["image_proj.layers.0.0.to_kv.weight"].shape == (1536, 768)
