"""What every test may rely on: one thread, nothing but loopback, a tiny base that is real in every part."""

import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

# Before torch, transformers or Ray are imported by any test.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("WANDB_MODE", "offline")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_AUTH_MODE", "disabled")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

import pytest
import torch
from hypothesis import settings

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.image_encoders import ImageEncoder, load_image_encoder
from tiny_worlds import make_base

torch.set_num_threads(1)
# A busy machine is no failure.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")


@pytest.fixture(scope="session")
def base() -> Base:
    """The toy photo base, float32."""
    return load_base("toy/photo")


@pytest.fixture(scope="session")
def encoder() -> ImageEncoder:
    """The toy image encoder."""
    return load_image_encoder("toy/image_encoder")


@pytest.fixture(scope="session")
def adapter(base: Base, encoder: ImageEncoder) -> IPAdapter:
    """An untrained adapter of the toy base, with every weight moved so that no symmetry hides a mistake."""
    torch.manual_seed(11)
    adapter = IPAdapter.for_unet(base.unet, features={"image_embeds": encoder.embed_dim}).eval()
    with torch.no_grad():
        for parameter in adapter.parameters():
            parameter.add_(0.05 * torch.randn_like(parameter))
    return adapter.requires_grad_(False)


@pytest.fixture(scope="session")
def tiny_base(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """The folder of a tiny base of a kind: sd, sd2, sd-inpaint, sdxl."""
    folder = tmp_path_factory.mktemp("tiny")

    @cache
    def make(kind: str) -> Path:
        return make_base(kind, folder / kind)

    return make


@pytest.fixture
def in_tmp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Run in an empty folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path
