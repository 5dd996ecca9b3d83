"""`nigaoe adapter inspect|convert|check` as their users meet them."""

from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.cli import app
from nigaoe.core.errors import AdapterError


def _run(*arguments: str) -> str:
    result = CliRunner().invoke(app, ["adapter", *arguments])
    if result.exception is not None:
        raise result.exception
    return result.output


@pytest.fixture
def plusv2(base: Base, tmp_path: Path) -> Path:
    adapter = IPAdapter.for_unet(
        base.unet, "faceid-plusv2", features={"hidden_states": 128, "identity": 512}, lora_rank=4
    )
    save_adapter(adapter, tmp_path / "v2.bin", dtype=torch.float16)
    return tmp_path / "v2.bin"


def test_inspect_says_what_keys_tell_and_what_they_leave_open(plusv2: Path) -> None:
    lines = dict(line.split(maxsplit=1) for line in _run("inspect", str(plusv2)).splitlines())
    assert lines["variant"].startswith("faceid-plus or faceid-plusv2 (their keys are the same")
    assert lines["bases"] == "toy"
    assert lines["tokens"] == "4"
    assert lines["LoRA"] == "rank 4"
    assert lines["numbers"] == "float16"
    assert lines["layout"] == "nested"
    assert "--variant" not in _run("inspect", str(plusv2), "--variant", "faceid-plusv2")


def test_convert_keeps_weights_and_number_format_and_remembers_the_variant(plusv2: Path, tmp_path: Path) -> None:
    out = tmp_path / "v2.safetensors"
    with pytest.raises(AdapterError, match="say which"):
        _run("convert", str(plusv2), str(out))
    assert not out.exists()
    _run("convert", str(plusv2), str(out), "--variant", "faceid-plusv2")
    assert load_adapter(out).variant.name == "faceid-plusv2"
    before, after = read_adapter_file(plusv2).state, read_adapter_file(out).state
    assert before.keys() == after.keys()
    assert all(torch.equal(value, after[key]) and value.dtype == after[key].dtype for key, value in before.items())
    with pytest.raises(AdapterError, match="ends in '.pt'"):
        _run("convert", str(out), str(tmp_path / "v2.pt"))


def test_check_knows_the_base_and_the_encoder(adapter: IPAdapter, tmp_path: Path) -> None:
    file = tmp_path / "a.safetensors"
    save_adapter(adapter, file)
    assert "all finite; fits base toy/anime" in _run("check", str(file), "--base", "toy/anime")
    wide = IPAdapter.for_unet(load_base("toy/photo").unet, features={"image_embeds": 64})
    save_adapter(wide, file)
    with pytest.raises(AdapterError, match="width 64, image encoder 'toy/image_encoder' gives 128"):
        _run("check", str(file), "--base", "toy/photo", "--image-encoder", "toy/image_encoder")
