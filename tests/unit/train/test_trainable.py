"""Bases that cannot be trained on are told before anything runs."""

from collections.abc import Callable
from pathlib import Path

import pytest

from nigaoe.core.errors import BaseModelError, ConfigError
from nigaoe.train.trainable import require_trainable


@pytest.mark.parametrize("kind", ["sd", "sd2"])
def test_sd_is_trained_on(tiny_base: Callable[[str], Path], kind: str) -> None:
    require_trainable(str(tiny_base(kind)))


@pytest.mark.parametrize(("kind", "called"), [("sdxl", "an SDXL base"), ("sd-inpaint", "an inpainting base")])
def test_others_are_not_yet(tiny_base: Callable[[str], Path], kind: str, called: str) -> None:
    with pytest.raises(ConfigError, match=f"is {called}, on which adapters draw but are not trained yet; train on one"):
        require_trainable(str(tiny_base(kind)))


def test_a_folder_that_is_no_base_is_named(tmp_path: Path) -> None:
    with pytest.raises(BaseModelError, match="cannot be loaded"):
        require_trainable(str(tmp_path))
