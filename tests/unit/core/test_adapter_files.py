"""Adapter files in every layout that exists, told apart by content; and bad ones, each with one sentence."""

from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
from nigaoe.core.adapters.variants import VARIANTS, Feature
from nigaoe.core.errors import AdapterError

FEATURES: dict[Feature, int] = {"image_embeds": 24, "hidden_states": 40, "identity": 16}


@pytest.fixture(scope="module")
def unet() -> UNet2DConditionModel:
    torch.manual_seed(0)
    return UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 48),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=1,
        norm_num_groups=8,
        attention_head_dim=2,
        cross_attention_dim=32,
    ).requires_grad_(False)


def _adapter(unet: UNet2DConditionModel, variant: str = "base", **kwargs: Any) -> IPAdapter:
    torch.manual_seed(1)
    adapter = IPAdapter.for_unet(unet, variant, features=FEATURES, lora_rank=4, **kwargs).requires_grad_(False)
    for parameter in adapter.parameters():
        parameter.add_(torch.randn_like(parameter))
    return adapter


def _same(a: IPAdapter, b: IPAdapter) -> bool:
    ours, theirs = a.state_dict(), b.state_dict()
    return ours.keys() == theirs.keys() and all(torch.equal(value, theirs[key]) for key, value in ours.items())


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("variant", VARIANTS)
def test_every_variant_comes_back_the_same(
    unet: UNet2DConditionModel, variant: str, suffix: str, tmp_path: Path
) -> None:
    features: dict[Feature, int] = {**FEATURES, "identity": 512}
    adapter = IPAdapter.for_unet(unet, variant, features=features, lora_rank=4)
    save_adapter(adapter, tmp_path / f"a{suffix}")
    # A .bin has no room for metadata, so those variants must be named whose keys leave a doubt.
    again = load_adapter(tmp_path / f"a{suffix}", variant if suffix == ".bin" else None)
    assert again.variant.name == variant
    assert _same(adapter, again)


@pytest.mark.parametrize("num_tokens", [1, 6, 16])
@pytest.mark.parametrize("variant", ["base", "plus", "faceid", "faceid-plus"])
def test_any_number_of_tokens(unet: UNet2DConditionModel, variant: str, num_tokens: int, tmp_path: Path) -> None:
    adapter = _adapter(unet, variant, num_tokens=num_tokens)
    save_adapter(adapter, tmp_path / "a.safetensors")
    again = load_adapter(tmp_path / "a.safetensors")
    assert again.num_tokens == num_tokens
    assert _same(adapter, again)


def test_keys_that_two_variants_share_need_a_word(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    adapter = _adapter(unet, "faceid-plusv2")
    save_adapter(adapter, tmp_path / "a.bin")
    with pytest.raises(AdapterError, match="'faceid-plus' or 'faceid-plusv2'.*option `variant`"):
        load_adapter(tmp_path / "a.bin")
    assert load_adapter(tmp_path / "a.bin", "faceid-plus").variant.name == "faceid-plus"
    with pytest.raises(AdapterError, match="said to be 'plus-face'"):
        load_adapter(tmp_path / "a.bin", "plus-face")
    with pytest.raises(AdapterError, match="no adapter variant 'plus2'; choose one of base, full"):
        load_adapter(tmp_path / "a.bin", "plus2")


def test_comfyuis_alias_is_read(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    adapter = _adapter(unet)
    state = {key.replace("ip_adapter.", "adapter_modules."): value for key, value in adapter.state_dict().items()}
    save_file(state, tmp_path / "a.safetensors")
    assert read_adapter_file(tmp_path / "a.safetensors").layout == "aliased"
    assert _same(adapter, load_adapter(tmp_path / "a.safetensors"))


class _Processor(nn.Module):
    """Weights where the original trainer has them: on the UNet's attention processors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


class _Trainer(nn.Module):
    """The module that the original trainer hands to accelerate."""

    def __init__(self, unet: UNet2DConditionModel, adapter: IPAdapter) -> None:
        super().__init__()
        empty = nn.Module()
        layers = [dict(adapter.ip_adapter.items()).get(str(i), empty) for i in range(_count(unet))]
        unet.set_attn_processor({n: _Processor(x) for n, x in zip(unet.attn_processors, layers, strict=True)})
        self.unet = unet
        self.image_proj_model = adapter.image_proj
        self.adapter_modules = nn.ModuleList(unet.attn_processors.values())


def _count(unet: UNet2DConditionModel) -> int:
    return len(unet.attn_processors)


@pytest.mark.parametrize("variant", ["base", "plus", "faceid"])
@pytest.mark.parametrize("safe", [True, False])
def test_raw_checkpoints_of_the_original_trainer_are_read(variant: str, safe: bool, tmp_path: Path) -> None:
    """The safetensors kind puts the middle block before the upper ones and files the adapter under the UNet alone."""
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=8,
        block_out_channels=(32, 48),
        down_block_types=("CrossAttnDownBlock2D",) * 2,
        up_block_types=("CrossAttnUpBlock2D",) * 2,
        layers_per_block=2,
        norm_num_groups=8,
        attention_head_dim=2,
        transformer_layers_per_block=2,
        cross_attention_dim=32,
    ).requires_grad_(False)
    adapter = _adapter(unet, variant)
    trainer = _Trainer(unet, adapter)
    Accelerator(cpu=True).save_model(trainer, tmp_path, safe_serialization=safe)
    file = tmp_path / ("model.safetensors" if safe else "pytorch_model.bin")
    if safe:
        assert not any(key.startswith("adapter_modules.") for key in load_file(file)), (
            "the trap that this test is about"
        )
    assert read_adapter_file(file).layout == "raw"
    assert _same(adapter, load_adapter(file))


@pytest.mark.parametrize("variant", ["faceid-plus", "faceid-plusv2"])
def test_faceid_files_without_their_lora_work(unet: UNet2DConditionModel, variant: str, tmp_path: Path) -> None:
    whole = _adapter(unet, variant)
    save_file({k: v for k, v in whole.state_dict().items() if "_lora." not in k}, tmp_path / "a.safetensors")
    stripped = load_adapter(tmp_path / "a.safetensors", variant).requires_grad_(False)
    features = torch.randn(1, FEATURES["identity"]), torch.randn(1, 5, FEATURES["hidden_states"])
    ours, theirs = stripped(*features), whole(*features)
    assert ours.loras == ()
    assert len(theirs.loras) == 1
    assert all(torch.equal(a, b) for a, b in zip(ours.keys, theirs.keys, strict=True))


def test_a_weight_that_is_no_number_is_refused(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    adapter = _adapter(unet)
    adapter.layer(3).to_v_ip.weight[0, 0] = float("nan")
    save_adapter(adapter, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=r"'ip_adapter\.3\.to_v_ip\.weight' that is not a number"):
        load_adapter(tmp_path / "a.safetensors")


@pytest.mark.parametrize("variant", VARIANTS)
def test_a_file_with_holes_says_which(unet: UNet2DConditionModel, variant: str, tmp_path: Path) -> None:
    whole = _adapter(unet, variant).state_dict()
    lost = [key for key in whole if key.startswith("image_proj.")]
    for key in lost:
        save_file({k: v.contiguous() for k, v in whole.items() if k != key}, tmp_path / "a.safetensors")
        with pytest.raises(AdapterError) as caught:
            load_adapter(tmp_path / "a.safetensors", None if variant != "faceid-plusv2" else variant)
        assert "\n" not in str(caught.value)
        assert "a.safetensors" in str(caught.value)
