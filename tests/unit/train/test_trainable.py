"""Bases that cannot be trained on are told before anything runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nigaoe.core.bases import load_base
from nigaoe.core.errors import BaseModelError, ConfigError
from nigaoe.train.running.trainable import require_trainable


@pytest.mark.parametrize("kind", ["sd", "sd2", "sdxl"])
def test_sd_is_trained_on_and_described_without_its_weights(tiny_base: Callable[[str], Path], kind: str) -> None:
    outline, base = require_trainable(str(tiny_base(kind))), load_base(str(tiny_base(kind)))
    names = ("default_size_px", "size_multiple", "is_xl", "is_inpainting")
    assert outline == tuple(getattr(base, name) for name in names)


def test_inpainting_bases_are_not(tiny_base: Callable[[str], Path]) -> None:
    with pytest.raises(ConfigError, match="is an inpainting base, on which adapters draw but are not trained"):
        require_trainable(str(tiny_base("sd-inpaint")))


def test_a_folder_that_is_no_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        require_trainable(str(tmp_path))
