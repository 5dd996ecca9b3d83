"""Conditions are dropped as often as a config says."""

import pytest
import torch

from nigaoe.train.config import DropConfig
from nigaoe.train.running.objective import drop_masks


def test_drops_are_mutually_exclusive_and_as_frequent_as_asked() -> None:
    uniform = (torch.arange(100_000) + 0.5) / 100_000
    image, text = drop_masks(uniform, DropConfig(image=0.05, text=0.1, both=0.2))
    assert (image & ~text).float().mean() == pytest.approx(0.05, abs=1e-4)
    assert (text & ~image).float().mean() == pytest.approx(0.1, abs=1e-4)
    assert (image & text).float().mean() == pytest.approx(0.2, abs=1e-4)
