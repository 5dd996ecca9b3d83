"""Adapters: published keys, copies of K and V, files that come back the same, a base that is left as it was."""

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from nigaoe.core.adapters.adapter import IPAdapter, LayerWidths
from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
from nigaoe.core.adapters.variants import VARIANTS, Widths
from nigaoe.core.attention import attach, attached, cross_attention_layers, detach
from nigaoe.core.bases import Base, load_base
from nigaoe.core.errors import AdapterError


def test_module_names_are_the_published_keys(base: Base, adapter: IPAdapter) -> None:
    expected = {f"image_proj.{k}" for k in ("proj.weight", "proj.bias", "norm.weight", "norm.bias")}
    for index in (1, 3, 5, 7, 9, 11, 13):
        expected |= {f"ip_adapter.{index}.to_k_ip.weight", f"ip_adapter.{index}.to_v_ip.weight"}
    assert set(adapter.state_dict()) == expected


def test_the_middle_block_comes_last(base: Base) -> None:
    names = list(base.unet.attn_processors)
    last = max(cross_attention_layers(base.unet))
    assert names[last].startswith("mid_block")


def test_keys_and_values_start_as_copies(base: Base) -> None:
    fresh = IPAdapter.for_unet(base.unet, features={"image_embeds": 128})
    for index, attn in cross_attention_layers(base.unet).items():
        pair: Any = fresh.ip_adapter[str(index)]
        assert torch.equal(pair.to_k_ip.weight, attn.to_k.weight)
        assert torch.equal(pair.to_v_ip.weight, attn.to_v.weight)
        assert pair.to_k_ip.weight.data_ptr() != attn.to_k.weight.data_ptr()


@pytest.mark.parametrize("num_tokens", [1, 4, 7])
def test_files_come_back_the_same(base: Base, tmp_path: Path, num_tokens: int) -> None:
    adapter = IPAdapter.for_unet(base.unet, features={"image_embeds": 128}, num_tokens=num_tokens)
    save_adapter(adapter, tmp_path / "a.safetensors", {"note": "x"})
    again = load_adapter(tmp_path / "a.safetensors")
    assert again.num_tokens == num_tokens
    assert all(
        torch.equal(a, b) for a, b in zip(adapter.state_dict().values(), again.state_dict().values(), strict=True)
    )
    assert read_adapter_file(tmp_path / "a.safetensors").metadata["note"] == "x"


def test_the_original_bin_is_read(adapter: IPAdapter, tmp_path: Path) -> None:
    nested: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
    for key, value in adapter.state_dict().items():
        section, _, rest = key.partition(".")
        nested[section][rest] = value
    torch.save(nested, tmp_path / "a.bin")
    again = load_adapter(tmp_path / "a.bin").state_dict()
    assert all(torch.equal(value, again[key]) for key, value in adapter.state_dict().items())


def test_a_pickle_that_runs_code_is_refused(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return eval, ("1/0",)

    torch.save({"image_proj": Evil(), "ip_adapter": {}}, tmp_path / "evil.bin")
    with pytest.raises(AdapterError, match="evil.bin"):
        load_adapter(tmp_path / "evil.bin")


def test_wrong_files_end_in_one_sentence(tmp_path: Path, adapter: IPAdapter) -> None:
    (tmp_path / "text.safetensors").write_text("hello")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    state = {k: v for k, v in adapter.state_dict().items() if k != "ip_adapter.3.to_v_ip.weight"}
    save_file(state, tmp_path / "holes.safetensors")
    for name in ("missing.safetensors", "text.safetensors", "other.safetensors", "holes.safetensors"):
        with pytest.raises(AdapterError, match=name) as caught:
            load_adapter(tmp_path / name)
        assert "\n" not in str(caught.value)


def test_another_architecture_is_refused(base: Base) -> None:
    layers = {index: LayerWidths(key_value=(64, 320)) for index in (1, 3)}
    stranger = IPAdapter(VARIANTS["base"], Widths(64, {"image_embeds": 128}, 4, 0, 0), layers)
    with pytest.raises(AdapterError, match="architecture"):
        stranger.require_fit(base.unet)


def test_attach_and_detach_leave_the_base_as_it_was() -> None:
    unet = load_base("toy/photo").unet
    former = attach(unet)
    keys, text = list(unet.state_dict()), repr(unet)
    detach(unet, former)
    before = dict(unet.attn_processors)
    with attached(unet):
        assert list(unet.state_dict()) == keys
    assert unet.attn_processors == before
    assert repr(unet) == text


def test_saved_files_hold_the_asked_for_dtype(adapter: IPAdapter, tmp_path: Path) -> None:
    save_adapter(adapter, tmp_path / "half.safetensors", dtype=torch.float16)
    assert {v.dtype for v in load_file(tmp_path / "half.safetensors").values()} == {torch.float16}
