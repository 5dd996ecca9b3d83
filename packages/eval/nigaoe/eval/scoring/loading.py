"""Feature extractors by name, as a list of `features` in an evaluation's config has them."""

import re
from pathlib import Path

import torch

from nigaoe.core.errors import BaseModelError
from nigaoe.eval.scoring.class_token import ClassTokenEncoder
from nigaoe.eval.scoring.clip import ClipScorer
from nigaoe.eval.scoring.efficientnet import NAME as EFFICIENTNET
from nigaoe.eval.scoring.efficientnet import EfficientNetLite0
from nigaoe.eval.scoring.features import FeatureExtractor
from nigaoe.eval.scoring.inception import FidInception
from nigaoe.eval.scoring.judge import JudgeScorer


def load_extractor(name: str, device: str | torch.device = "cpu") -> FeatureExtractor:
    """Load 'efficientnet_lite0', 'inception:FILE', 'clip:MODEL', 'toy/clip', 'dino:MODEL' or 'judge'.

    MODEL is a hub id or a folder. Figures through a DINO are named after the last part of it, as `dino_vits16_i`.

    Raises:
        BaseModelError: No such extractor, or its package or its weights are not there.
    """
    kind, _, where = name.partition(":")
    if name == EFFICIENTNET:
        return EfficientNetLite0.load(device)
    if name == "judge":
        return JudgeScorer.load(device)
    if name == "toy/clip":
        return ClipScorer.load(name, device)
    if kind == "inception" and where:
        return FidInception.load(Path(where).expanduser(), device)
    if kind == "clip" and where:
        return ClipScorer.load(where, device)
    if kind == "dino" and figure_name(where):
        return ClassTokenEncoder.load(where, figure_name(where), device)
    raise BaseModelError(
        f"there is no feature extractor {name!r}; choose '{EFFICIENTNET}', 'inception:FILE', 'clip:MODEL', 'toy/clip', "
        "'dino:MODEL' or 'judge'"
    )


def figure_name(model: str) -> str:
    """What figures through a model are called: the last part of its hub id or folder, `[a-z0-9_]` only."""
    return re.sub(r"[^a-z0-9]+", "_", Path(model).name.lower()).strip("_")
