"""Adapter files in every layout that exists, told apart by content; and bad ones, each with one sentence."""

import re
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from safetensors.torch import load_file, save_file
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
from nigaoe.core.adapters.variants import VARIANTS, Feature
from nigaoe.core.errors import AdapterError, BaseModelError, NigaoeError
from nigaoe.core.models import locate
from original_trainer import write_checkpoint

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
    file = write_checkpoint(unet, adapter, tmp_path, safe=safe)
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


CURE = "download or convert it again"


def _refusal(path: Path | str, variant: str | None = None) -> str:
    """The one sentence about a file, without a word of torch before it."""
    with warnings.catch_warnings(record=True) as warned, pytest.raises(NigaoeError) as caught:
        load_adapter(path, variant)
    assert not warned
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("name", ["a.bin", "a.txt", "a.safetensors", "a"])
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"<!DOCTYPE html><html><head><title>404</title></head></html>",
        b"version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 44642768\n",
        b"\xff\xd8\xff\xe0\x00\x10JFIF",
        b"PK\x03\x04" + bytes(100),
        b"\x80\x02",
        bytes(8) + b"{" + bytes(40),
        b"\xff" * 8 + b"{}",
    ],
)
def test_what_is_no_adapter_at_all_is_one_sentence(name: str, content: bytes, tmp_path: Path) -> None:
    file = tmp_path / name
    file.write_bytes(content)
    assert _refusal(file) == f"adapter file '{file}' is damaged, truncated or no adapter at all; download it again"


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
@pytest.mark.parametrize("kept", [0.02, 0.5, 0.99, -10])
def test_truncated_files_are_one_sentence_and_print_nothing(
    unet: UNet2DConditionModel, suffix: str, kept: float, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / f"a{suffix}"
    save_adapter(_adapter(unet), file)
    whole = file.read_bytes()
    file.write_bytes(whole[: int(kept if kept < 0 else len(whole) * kept)])
    assert _refusal(file) == f"adapter file '{file}' is damaged, truncated or no adapter at all; download it again"
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(("suffix", "other"), [(".safetensors", ".bin"), (".bin", ".safetensors"), (".bin", ".txt")])
def test_content_decides_and_not_the_name(unet: UNet2DConditionModel, suffix: str, other: str, tmp_path: Path) -> None:
    adapter = _adapter(unet)
    save_adapter(adapter, tmp_path / f"a{suffix}")
    (tmp_path / f"a{suffix}").rename(tmp_path / f"b{other}")
    assert _same(adapter, load_adapter(tmp_path / f"b{other}"))


@pytest.mark.parametrize("content", [[1, 2], torch.zeros(2), {1: torch.zeros(2)}, {"image_proj": 3, 4: {}}])
def test_pickles_of_something_else(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "a.bin")
    assert _refusal(tmp_path / "a.bin") == (
        f"adapter file '{tmp_path}/a.bin' is not an IP-Adapter: it has no 'ip_adapter.*.to_k_ip.weight'; "
        "give a .safetensors or .bin adapter"
    )


AXES = "and no empty one"
K, V = "ip_adapter.1.to_k_ip.weight", "ip_adapter.1.to_v_ip.weight"


@pytest.mark.parametrize(
    ("variant", "change", "says"),
    [
        (
            "base",
            {"ip_adapter.x.to_k_ip.weight": torch.ones(2, 2)},
            "has 'ip_adapter.x.to_k_ip.weight', where a layer's number must follow 'ip_adapter.'",
        ),
        (
            "base",
            {"ip_adapter.99999999.to_k_ip.weight": torch.ones(2, 2)},
            "has 'ip_adapter.99999999.to_k_ip.weight', where a layer's number must follow 'ip_adapter.'",
        ),
        ("base", {K: torch.ones(32)}, f"has '{K}' of shape [32], which must have 2 axes {AXES}"),
        ("base", {K: torch.ones(())}, f"has '{K}' of shape [], which must have 2 axes {AXES}"),
        ("base", {K: None}, f"is no whole adapter: it lacks '{K}'"),
        ("base", {V: None}, f"is no whole adapter of variant 'base': it lacks '{V}'"),
        ("base", {V: torch.ones(3, 3)}, f"has '{V}' of shape [3, 3], beside its other weights it must be [32, 32]"),
        ("base", {K: torch.ones(32, 31)}, f"has '{K}' of shape [32, 31], beside its other weights it must be [32, 32]"),
        (
            "base",
            {"image_proj.proj.weight": torch.ones(24)},
            f"has 'image_proj.proj.weight' of shape [24], which must have 2 axes {AXES}",
        ),
        (
            "base",
            {"image_proj.proj.weight": torch.ones(8, 24)},
            "has 'image_proj.proj.bias' of shape [128], beside its other weights it must be [32]",
        ),
        (
            "base",
            {"image_proj.norm.weight": torch.ones(0)},
            f"has 'image_proj.norm.weight' of shape [0], which must have 1 axis {AXES}",
        ),
        (
            "base",
            {"image_proj.norm.gain": torch.ones(2)},
            "has 'image_proj.norm.gain', which no adapter of variant 'base' has",
        ),
        (
            "plus",
            {"image_proj.proj_in.weight": torch.ones(40)},
            f"has 'image_proj.proj_in.weight' of shape [40], which must have 2 axes {AXES}",
        ),
        (
            "plus",
            {"image_proj.layers.0.0.to_q.weight": torch.ones(7, 32)},
            "has 'image_proj.layers.0.0.to_q.weight' of shape [7, 32], beside its other weights it must be [64, 32]",
        ),
        (
            "faceid",
            {"ip_adapter.0.to_q_lora.up.weight": None},
            "is no whole adapter: it lacks 'ip_adapter.0.to_q_lora.up.weight'",
        ),
        (
            "faceid",
            {"image_proj.norm.weight": torch.ones(0)},
            f"has 'image_proj.norm.weight' of shape [0], which must have 1 axis {AXES}",
        ),
    ],
)
def test_odd_keys_and_shapes_are_named(
    unet: UNet2DConditionModel, variant: str, change: dict[str, Tensor | None], says: str, tmp_path: Path
) -> None:
    state = {**_adapter(unet, variant).state_dict(), **change}
    file = tmp_path / "a.safetensors"
    save_file({key: value.contiguous() for key, value in state.items() if value is not None}, file)
    assert _refusal(file) == f"adapter file '{file}' {says}; {CURE}"


@pytest.mark.parametrize(
    "variant", [pytest.param(v, marks=pytest.mark.slow) if v.startswith("faceid-plus") else v for v in VARIANTS]
)
def test_every_weight_in_every_wrong_shape_is_one_sentence(unet: UNet2DConditionModel, variant: str) -> None:
    whole = _adapter(unet, variant).state_dict()
    parts = re.compile(r"image_proj\.(?!.*layers\.[1-9])|ip_adapter\.[01]\.")
    for key in filter(parts.match, whole):
        for shape in ((), (0,), (3,), (0, 3), (3, 5), (1, 2, 3)):
            with pytest.raises(AdapterError) as caught:
                IPAdapter.of_state({**whole, key: torch.ones(shape)}, VARIANTS[variant], "the file")  # type: ignore[index]
            assert str(caught.value).startswith("the file has 'i")
            assert str(caught.value).endswith(CURE)


@pytest.mark.parametrize("dtype", [torch.int8, torch.int64, torch.bool])
def test_weights_that_are_no_floats_are_refused(unet: UNet2DConditionModel, dtype: torch.dtype, tmp_path: Path) -> None:
    state = {**_adapter(unet).state_dict(), K: torch.ones(32, 32).to(dtype)}
    file = tmp_path / "a.safetensors"
    save_file(state, file)
    assert _refusal(file) == (
        f"adapter file '{file}' has '{K}' as {str(dtype).removeprefix('torch.')}, weights must be dense "
        "floating-point numbers; convert it again as float32, float16 or bfloat16"
    )


def test_paths_may_be_text_folders_and_the_toy_adapter(unet: UNet2DConditionModel, tmp_path: Path) -> None:
    adapter = _adapter(unet)
    save_adapter(adapter, f"{tmp_path}/run/adapter.safetensors")
    for place in (f"{tmp_path}/run", tmp_path / "run", f"{tmp_path}/run/adapter.safetensors"):
        assert _same(adapter, load_adapter(place))
    shipped = load_adapter(Path(locate("toy/adapter", "adapter")) / "adapter.safetensors")
    assert _same(shipped, load_adapter("toy/adapter"))
    assert _same(shipped, load_adapter(Path("toy/adapter")))
    (tmp_path / "empty").mkdir()
    assert _refusal(tmp_path / "empty") == (
        f"'{tmp_path}/empty' is a folder without 'adapter.safetensors'; give a .safetensors or .bin file"
    )
    assert _refusal("toy/photo").endswith("is a folder without 'adapter.safetensors'; give a .safetensors or .bin file")
    assert _refusal("toy/adaptr") == (
        "adapter 'toy/adaptr' is not part of the toy world; it has toy/adapter, so mend the name or give a folder"
    )
    nowhere = f"adapter file '{tmp_path}/nowhere.bin' does not exist; give a .safetensors or .bin file"
    assert _refusal(f"{tmp_path}/nowhere.bin") == nowhere
    assert _refusal("x" * 300).startswith("adapter file 'xxx")


def test_a_folder_of_ones_own_may_be_called_toy(
    unet: UNet2DConditionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    adapter = _adapter(unet)
    save_adapter(adapter, "toy/run1/adapter.safetensors")
    assert _same(adapter, load_adapter("toy/run1"))


@pytest.mark.parametrize("suffix", [".safetensors", ".bin"])
def test_places_where_nothing_can_be_written(unet: UNet2DConditionModel, suffix: str, tmp_path: Path) -> None:
    adapter = _adapter(unet)
    (tmp_path / "file").touch()
    (tmp_path / f"folder{suffix}").mkdir()
    cure = "choose another place or make room there"
    for place, reason in {
        f"file/a{suffix}": f"'{tmp_path}/file' is no folder",
        f"file/deeper/a{suffix}": f"'{tmp_path}/file/deeper' is no folder",
        f"folder{suffix}": "it is a folder",
    }.items():
        with pytest.raises(AdapterError) as caught:
            save_adapter(adapter, tmp_path / place)
        assert str(caught.value) == f"adapter file '{tmp_path}/{place}' cannot be written ({reason}); {cure}"
    assert {path.name for path in tmp_path.iterdir()} == {"file", f"folder{suffix}"}


def test_a_disk_that_fills_up_leaves_no_half_file(
    unet: UNet2DConditionModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(AdapterError, match=r"cannot be written \(PytorchStreamWriter failed .* failed\); choose"):
        save_adapter(_adapter(unet), tmp_path / "a.bin")
    assert not list(tmp_path.iterdir())


def test_a_base_of_as_many_layers_and_other_widths_is_told_by_its_first_layer(unet: UNet2DConditionModel) -> None:
    def other(channels: tuple[int, int]) -> UNet2DConditionModel:
        config = {key: value for key, value in unet.config.items() if not key.startswith("_")}
        return UNet2DConditionModel(**{**config, "block_out_channels": channels})

    adapter = _adapter(unet)
    adapter.require_fit(other((32, 48)))
    cure = "use an adapter trained on a base of this architecture"
    with pytest.raises(AdapterError) as caught:
        adapter.require_fit(other((32, 64)))
    assert str(caught.value) == f"layer 3 of the adapter maps 32 to 48, that of the base 32 to 64; {cure}"
    del adapter.ip_adapter["3"]
    adapter.ip_adapter["2"] = IPAdapter.for_unet(unet, features=FEATURES).layer(3)
    with pytest.raises(AdapterError) as caught:
        adapter.require_fit(unet)
    assert str(caught.value) == f"layer 2 of the adapter maps 32 to 48, that of the base nothing; {cure}"


@pytest.mark.parametrize(
    ("name", "role", "known"),
    [
        ("toy/phot", "base model", "toy/photo, toy/anime"),
        ("toy/encoder", "image encoder", "toy/image_encoder"),
        ("toy/cilp", "scoring CLIP", "toy/clip"),
        ("toy/canny", "ControlNet", "no ControlNet"),
    ],
)
def test_the_toy_world_offers_what_was_asked_for(name: str, role: str, known: str) -> None:
    with pytest.raises(BaseModelError) as caught:
        locate(name, role)
    assert str(caught.value) == (
        f"{role} {name!r} is not part of the toy world; it has {known}, so mend the name or give a folder"
    )


def test_places_of_models_may_be_paths(tmp_path: Path) -> None:
    assert locate(tmp_path) == str(tmp_path)
    assert locate(Path("toy/photo")) == locate("toy/photo")
    with pytest.raises(BaseModelError, match=re.escape(f"{str(tmp_path / 'nowhere')!r} is neither a folder here")):
        locate(tmp_path / "nowhere")
