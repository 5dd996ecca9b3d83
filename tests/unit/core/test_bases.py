"""Bases of every architecture, loaded from folders, in every precision."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from nigaoe.core.bases import Precision, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.errors import BaseModelError


@pytest.mark.parametrize(
    ("kind", "is_xl", "is_inpainting", "prediction"),
    [
        ("sd", False, False, "epsilon"),
        ("sd2", False, False, "v_prediction"),
        ("sd-inpaint", False, True, "epsilon"),
        ("sdxl", True, False, "epsilon"),
    ],
)
def test_a_folder_says_what_it_is(
    tiny_base: Callable[[str], Path], kind: str, is_xl: bool, is_inpainting: bool, prediction: str
) -> None:
    base = load_base(str(tiny_base(kind)))
    assert (base.is_xl, base.is_inpainting, base.schedule.prediction) == (is_xl, is_inpainting, prediction)
    assert (base.latent_channels, base.vae_factor, base.size_multiple, base.default_size_px) == (4, 4, 8, 32)
    text = base.text_encoder.encode(["a photo", ""])
    assert text.states.shape == (2, 48, base.unet.config.cross_attention_dim)
    assert (text.pooled is not None) == is_xl


@pytest.mark.parametrize("kind", ["sd", "sdxl"])
def test_bfloat16_draws_nearly_what_float32_draws(tiny_base: Callable[[str], Path], kind: str) -> None:
    latents = []
    for precision in ("float32", "bfloat16"):
        base = load_base(str(tiny_base(kind)), precision)
        assert {base.unet.dtype, base.vae.dtype} == {getattr(torch, precision)}
        engine = Engine(base)
        engine.submit(Generation(prompt="a photo", seed=1, steps=4, guidance_scale=3.0))
        (row,) = engine._active
        while engine.active_rows:
            engine.step()
        assert row.latents.dtype == torch.float32
        latents.append(row.latents)
    spread = latents[0].std()
    assert 0 < (latents[0] - latents[1]).abs().max() < 0.2 * spread


@pytest.mark.parametrize(("kind", "dtype"), [("sd", torch.float16), ("sdxl", torch.float32)])
def test_float16_spares_an_autoencoder_that_overflows(
    tiny_base: Callable[[str], Path], kind: str, dtype: torch.dtype, tmp_path: Path
) -> None:
    """SDXL's says `force_upcast`; that of SD 1.5 has no such key, in the published files."""
    folder = tmp_path / kind
    folder.symlink_to(tiny_base(kind))
    config = folder / "vae" / "config.json"
    text = config.read_text(encoding="utf-8")
    try:
        if kind == "sd":
            config.write_text(text.replace('  "force_upcast": true,\n', ""), encoding="utf-8")
        base = load_base(str(folder), "float16")
    finally:
        config.write_text(text, encoding="utf-8")
    assert (base.unet.dtype, base.vae.dtype) == (torch.float16, dtype)


def test_sdxl_reads_zeros_where_nothing_is_said_against(tiny_base: Callable[[str], Path]) -> None:
    encoder = load_base(str(tiny_base("sdxl"))).text_encoder
    nothing, something = encoder.encode_negative(["", "blurry"]), encoder.encode(["", "blurry"])
    assert nothing.pooled is not None
    assert something.pooled is not None
    assert nothing.states[0].abs().max() == nothing.pooled[0].abs().max() == 0
    assert torch.equal(nothing.states[1], something.states[1])
    assert something.states[0].abs().max() > 0


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_a_folder_without_a_part_is_refused_by_name(
    tiny_base: Callable[[str], Path], tmp_path: Path, precision: Precision
) -> None:
    for part in tiny_base("sdxl").iterdir():
        if part.name != "text_encoder_2":
            (tmp_path / part.name).symlink_to(part)
    with pytest.raises(BaseModelError, match="cannot be loaded .*give a diffusers folder or hub id"):
        load_base(str(tmp_path), precision)
