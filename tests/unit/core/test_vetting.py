"""Adapters from strangers: every file that is not one is refused in a sentence, before there is memory for it."""

import json
import os
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
from nigaoe.core.adapters.fitting import read_attention_outline, require_fit
from nigaoe.core.adapters.headers import MOST_HEADER_BYTES, read_header
from nigaoe.core.adapters.vetting import describe_file, say_variant, vet_adapter
from nigaoe.core.bases import Base
from nigaoe.core.errors import AdapterError
from nigaoe.core.transfers import sha256_of

WHERE = "the upload"
Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def good(adapter: IPAdapter, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("good") / "adapter.safetensors"
    save_adapter(adapter, path)
    return path


def written(path: Path, header: dict[str, Any] | bytes, data: bytes = b"") -> Path:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + data)
    return path


def changed(good: Path, path: Path, change: Change) -> Path:
    content = good.read_bytes()
    length = int.from_bytes(content[:8], "little")
    header = json.loads(content[8 : 8 + length])
    change(header)
    return written(path, header, content[8 + length :])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2])
def test_a_good_file_is_told_as_it_is(adapter: IPAdapter, base: Base, tmp_path: Path, dtype: torch.dtype) -> None:
    path = tmp_path / "a.safetensors"
    save_adapter(adapter, path, dtype=dtype)
    found = vet_adapter(path, WHERE)
    assert (found.variant, found.num_tokens, found.sha256) == ("base", 4, sha256_of(str(path)))
    assert found.parameters == sum(p.numel() for p in adapter.parameters())
    assert found.outline == adapter.outline == load_adapter(path).outline
    require_fit(found.outline, read_attention_outline("toy/photo"))
    adapter.require_fit(base.unet)
    assert describe_file(path, WHERE) == found


@pytest.mark.parametrize("layout", ["nested", "aliased"])
def test_other_published_layouts_are_taken(adapter: IPAdapter, tmp_path: Path, layout: str) -> None:
    path = tmp_path / ("a.bin" if layout == "nested" else "a.safetensors")
    if layout == "nested":
        save_adapter(adapter, path)
        assert describe_file(path, WHERE).outline == adapter.outline
        with pytest.raises(AdapterError, match="pickle or an archive"):
            vet_adapter(path, WHERE)
        return
    state = {key.replace("ip_adapter.", "adapter_modules."): value for key, value in adapter.state_dict().items()}
    save_file(state, path)
    assert vet_adapter(path, WHERE).outline == adapter.outline


class _Code:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, ("touch /tmp/nigaoe-was-here",)


def test_pickles_and_archives_are_not_opened(tmp_path: Path) -> None:
    pickled, zipped, torched = tmp_path / "p", tmp_path / "z", tmp_path / "t"
    pickled.write_bytes(pickle.dumps(_Code()))
    with zipfile.ZipFile(zipped, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("../../x", b"0" * 10_000_000)
    torch.save({"a": torch.ones(2)}, torched)
    for path in (pickled, zipped, torched):
        with pytest.raises(AdapterError, match="pickle or an archive"):
            vet_adapter(path, WHERE)
    assert not Path("/tmp/nigaoe-was-here").exists()


def test_links_folders_and_pipes_are_no_files(good: Path, tmp_path: Path) -> None:
    link, pipe = tmp_path / "link", tmp_path / "pipe"
    link.symlink_to(good)
    os.mkfifo(pipe)
    for path in (link, pipe, tmp_path, tmp_path / "nothing"):
        with pytest.raises(AdapterError, match=r"cannot be read|is no file"):
            vet_adapter(path, WHERE)


@pytest.mark.parametrize("keep", [0, 1, 7, 8, 9, 100, 0.5, -1])
def test_truncated_files(good: Path, tmp_path: Path, keep: float) -> None:
    content, path = good.read_bytes(), tmp_path / "a.safetensors"
    path.write_bytes(content[: int(len(content) * keep) if keep == 0.5 else int(keep)])
    with pytest.raises(AdapterError, match="truncated"):
        vet_adapter(path, WHERE)


def test_files_with_more_than_they_say(good: Path, tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    path.write_bytes(good.read_bytes() + b"PK\x03\x04 and more")
    with pytest.raises(AdapterError, match="longer than its tensors"):
        vet_adapter(path, WHERE)


def test_header_bombs(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    began = time.perf_counter()
    for length in (2**64 - 1, 2**63, 2**40):
        path.write_bytes(struct.pack("<Q", length) + b"{" * 100)
        with pytest.raises(AdapterError, match="truncated"):
            vet_adapter(path, WHERE)
    for text, words in (
        (b"{" + b" " * MOST_HEADER_BYTES + b"}", "more than the"),
        (b'{"a":' + b"[" * 1_000_000 + b"]" * 1_000_000 + b"}", "nested too deep"),
        (b'{"a":' + b"9" * 1_000_000 + b"}", "damaged header"),
        (b'{"a":{},"a":{}}', "comes twice"),
        (b'{"a":NaN}', "is no number"),
        (b"[]", "no object"),
        (b"{}", "0 tensors"),
        (b"\xff\xfe{}", "damaged header"),
        (b'{"__metadata__":{"a":1}}', "metadata"),
        (json.dumps({str(i): {} for i in range(10_000)}).encode(), "10000 tensors"),
    ):
        with pytest.raises(AdapterError, match=words):
            vet_adapter(written(path, text), WHERE)
    assert time.perf_counter() - began < 20


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({"dtype": "F32", "shape": [2**31 - 1] * 3, "data_offsets": [0, 16]}, "does not add up"),
        ({"dtype": "F32", "shape": [10**30], "data_offsets": [0, 16]}, "shape that is none"),
        ({"dtype": "F32", "shape": [-4], "data_offsets": [0, 16]}, "shape that is none"),
        ({"dtype": "F32", "shape": [True, 4], "data_offsets": [0, 16]}, "shape that is none"),
        ({"dtype": "F32", "shape": [4.0], "data_offsets": [0, 16]}, "shape that is none"),
        ({"dtype": "F32", "shape": [1] * 20, "data_offsets": [0, 4]}, "shape that is none"),
        ({"dtype": "F32", "shape": "4", "data_offsets": [0, 16]}, "shape that is none"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [16, 0]}, "place that is none"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0]}, "place that is none"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [4, 20]}, "nothing is"),
        ({"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]}, "shape that is none"),
        ({"dtype": "F32", "shape": [2**30], "data_offsets": [0, 2**32]}, "truncated"),
        ({"dtype": "PICKLE", "shape": [4], "data_offsets": [0, 16]}, "which no adapter has"),
        ({"dtype": ["F32"], "shape": [4], "data_offsets": [0, 16]}, "which no adapter has"),
        ({"dtype": "F32", "shape": [4], "data_offsets": [0, 16], "code": "x"}, "with more than those"),
        ([], "without type"),
        (None, "without type"),
    ],
)
def test_entries_that_lie(tmp_path: Path, entry: object, words: str) -> None:
    path = written(tmp_path / "a.safetensors", {"image_proj.proj.weight": entry}, b"\0" * 16)
    with pytest.raises(AdapterError, match=words):
        read_header(path, WHERE)


def test_tensors_may_not_share_bytes(tmp_path: Path) -> None:
    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    path = written(tmp_path / "a.safetensors", {"a": entry, "b": entry}, b"\0" * 16)
    with pytest.raises(AdapterError, match="where its other tensors are"):
        read_header(path, WHERE)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize(
    "dtype", [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e5m2, torch.float8_e4m3fn]
)
def test_every_number_is_looked_at(adapter: IPAdapter, tmp_path: Path, value: float, dtype: torch.dtype) -> None:
    path, key = tmp_path / "a.safetensors", "ip_adapter.1.to_v_ip.weight"
    state = {name: tensor.to(dtype) for name, tensor in adapter.state_dict().items()}
    last = state[key].clone().to(torch.float32)
    last[-1, -1] = value
    state[key] = last.to(dtype)
    if torch.isfinite(state[key].float()).all():
        pytest.skip("the format has no such number")
    save_file(state, path)
    with pytest.raises(AdapterError, match=r"'ip_adapter\.1\.to_v_ip\.weight' that is not a number"):
        vet_adapter(path, WHERE)


def test_numbers_too_large_for_what_computes_with_them(adapter: IPAdapter, tmp_path: Path) -> None:
    state = {name: tensor.double() for name, tensor in adapter.state_dict().items()}
    state["image_proj.proj.bias"] = torch.full_like(state["image_proj.proj.bias"], 1e300)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match="not a number"):
        vet_adapter(tmp_path / "a.safetensors", WHERE)


def _without(key: str) -> Change:
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (_without("image_proj.norm.bias"), "lacks 'image_proj.norm.bias'"),
        (_without("ip_adapter.1.to_k_ip.weight"), "lacks"),
        (lambda s: s.update({"ip_adapter.1.to_k_ip.weight": s["ip_adapter.1.to_k_ip.weight"].int()}), "int32"),
        (lambda s: s.update({"ip_adapter.../x.weight": torch.ones(1)}), "layer's number"),
        (lambda s: s.update({"ip_adapter.99999.to_k_ip.weight": torch.ones(1, 1)}), "layer's number"),
        (lambda s: s.update({"image_proj.more": torch.ones(1)}), "which no adapter"),
        (lambda s: s.update({"image_proj.proj.weight": torch.ones(0, 128)}), "no empty one"),
        (lambda s: s.update({"image_proj.norm.weight": torch.ones(64)}), "must be"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("ip_adapter.")], "not an IP-Adapter"),
        (lambda s: [s.pop(key) for key in list(s) if key.startswith("image_proj.")], "of any known variant"),
    ],
)
def test_adapters_that_are_not_whole(adapter: IPAdapter, tmp_path: Path, change: Change, words: str) -> None:
    state = dict(adapter.state_dict())
    change(state)
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=words):
        vet_adapter(tmp_path / "a.safetensors", WHERE)


def test_a_lora_must_fit_too(base: Base, tmp_path: Path) -> None:
    features: dict[Any, int] = {"identity": 512, "hidden_states": 128}
    adapter = IPAdapter.for_unet(base.unet, "faceid-plusv2", features=features, lora_rank=2)
    outline = read_attention_outline("toy/photo")
    require_fit(adapter.outline, outline)
    path = tmp_path / "a.safetensors"
    save_adapter(adapter, path)
    state = load_file(path)
    state["ip_adapter.0.to_q_lora.up.weight"] = torch.ones(7, 2)
    save_file(state, path, metadata={"nigaoe.variant": "faceid-plusv2"})
    with pytest.raises(AdapterError, match=r"LoRA of q in layer 0 maps \d+ to 7"):
        require_fit(vet_adapter(path, WHERE).outline, outline)


def test_who_is_told_the_variant_writes_it_down(base: Base, tmp_path: Path) -> None:
    features: dict[Any, int] = {"identity": 512, "hidden_states": 128}
    adapter = IPAdapter.for_unet(base.unet, "faceid-plusv2", features=features, lora_rank=2)
    path = tmp_path / "a.safetensors"
    save_file(dict(adapter.state_dict()), path, metadata={"by": "somebody"})
    with pytest.raises(AdapterError, match="may be 'faceid-plus' or 'faceid-plusv2'"):
        vet_adapter(path, WHERE)
    assert vet_adapter(path, WHERE, "faceid-plusv2").variant == "faceid-plusv2"
    say_variant(path, "faceid-plusv2", WHERE)
    assert vet_adapter(path, WHERE).variant == "faceid-plusv2"
    stored = read_adapter_file(path)
    assert stored.metadata == {"by": "somebody", "nigaoe.variant": "faceid-plusv2"}
    assert all(torch.equal(stored.state[key], value) for key, value in adapter.state_dict().items())
    before = path.read_bytes()
    say_variant(path, "faceid-plusv2", WHERE)
    assert path.read_bytes() == before


@given(data=st.data())
def test_damage_anywhere_in_the_head_is_a_sentence_or_nothing(data: st.DataObject, good: Path) -> None:
    content = bytearray(good.read_bytes())
    length = 8 + int.from_bytes(content[:8], "little")
    for _ in range(data.draw(st.integers(1, 4))):
        content[data.draw(st.integers(0, length - 1))] = data.draw(st.integers(0, 255))
    path = good.with_name("mutated.safetensors")
    path.write_bytes(content)
    try:
        found = vet_adapter(path, WHERE)
    except AdapterError:
        return
    # Metadata, say.
    assert found.outline == load_adapter(path).outline
