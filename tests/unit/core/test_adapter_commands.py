"""`nigaoe adapter inspect|convert|check` as their users meet them."""

import json
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, read_adapter_file, save_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.cli import app, main
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


@pytest.mark.parametrize("command", ["inspect", "convert", "check"])
def test_a_web_page_called_bin_is_one_sentence_and_exit_code_2(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "x.bin"
    file.write_text("<!DOCTYPE html><html></html>")
    more = {"inspect": [], "convert": [str(tmp_path / "out.bin")], "check": ["--base", "toy/photo"]}[command]
    assert _exit_code(monkeypatch, command, str(file), *more) == 2
    said = capfd.readouterr()
    assert said.err.strip() == (
        f"nigaoe: adapter file '{file}' is damaged, truncated or no adapter at all; download it again"
    )
    assert said.out == ""


def test_convert_to_an_impossible_place_is_one_sentence_and_exit_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    for suffix in (".bin", ".safetensors"):
        out = tmp_path / "file" / f"a{suffix}"
        assert _exit_code(monkeypatch, "convert", "toy/adapter", str(out)) == 2
        assert capfd.readouterr().err.strip() == (
            f"nigaoe: adapter file '{out}' cannot be written ('{tmp_path}/file' is no folder); "
            "choose another place or make room there"
        )


def _exit_code(monkeypatch: pytest.MonkeyPatch, *arguments: str) -> object:
    # The other packages' commands would stay registered.
    monkeypatch.setattr("nigaoe.core.cli.entry_points", lambda group: ())
    monkeypatch.setattr(sys, "argv", ["nigaoe", "adapter", *arguments])
    with pytest.raises(SystemExit) as caught:
        main()
    return caught.value.code


def test_the_toy_adapter_goes_by_its_name() -> None:
    assert "toy/photo" in _run("inspect", "toy/adapter")
    said = _run("check", "toy/adapter", "--base", "toy/photo", "--image-encoder", "toy/image_encoder")
    assert said.endswith("fits base toy/photo and image encoder toy/image_encoder\n")


@pytest.mark.parametrize(
    ("metadata", "note"),
    [
        ({"nigaoe": json.dumps({"image_encoder": "h94/IP-Adapter"})}, " (widths fit; the file names 'h94/IP-Adapter')"),
        ({"nigaoe": json.dumps({"image_encoder": "toy/image_encoder"})}, ""),
        ({"nigaoe": json.dumps({"image_encoder": 3})}, ""),
        ({"nigaoe": "[]"}, ""),
        ({"nigaoe": "{"}, ""),
        ({}, ""),
    ],
)
def test_check_says_if_the_file_names_another_encoder(
    adapter: IPAdapter, metadata: dict[str, str], note: str, tmp_path: Path
) -> None:
    file = tmp_path / "a.safetensors"
    save_adapter(adapter, file, metadata)
    said = _run("check", str(file), "--base", "toy/photo", "--image-encoder", "toy/image_encoder")
    assert said.endswith(f"fits base toy/photo and image encoder toy/image_encoder{note}\n")
