"""Every check passes for the toy world's networks, and fails for one that is broken in just its way."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from nigaoe.core.pixels import ImageLike
from nigaoe.core.reports import Check
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.protocols.make import make_protocol
from nigaoe.eval.running import checks
from nigaoe.eval.running.checks import check_panel
from nigaoe.eval.running.panel import Panel
from nigaoe.eval.scoring.clip import ClipScorer
from nigaoe.eval.scoring.features import TextImageEncoder
from nigaoe.eval.scoring.judge import JudgeScorer
from nigaoe.eval.scoring.remembering import RememberingClip, RememberingExtractor

CONFIG = EvalConfig.model_validate({"out": "unused", "protocol": {"kind": "toy", "n": 8}})
TWICE, CUT, DIFFER = (
    "a picture that was rescaled twice is refused",
    "captions that are cut are counted",
    "captions that are cut still differ",
)
SAME, APART, KINDS, BATCH, ORDER = (
    "clip: identical pictures score 1",
    "clip: black against white does not",
    "clip: float, uint8 and PIL give the same numbers",
    "clip: the batch does not matter",
    "clip: duplicates and order change nothing",
)


def _panel(clip: TextImageEncoder, judge: JudgeScorer | None = None) -> Panel:
    remembering = RememberingClip(clip)
    own = remembering if judge is None else RememberingExtractor(judge)
    return Panel(remembering, [remembering], [own], None, judge, None)


def _failed(found: Sequence[Check]) -> set[str]:
    """Names of checks that failed, but for those of spoilt pictures and of answers that are known."""
    return {check.name for check in found if check.passed is False and "(" not in check.name}


@dataclass
class _Broken:
    """A CLIP, less what a subclass breaks."""

    clip: ClipScorer
    name: str = "clip"
    fingerprint: str = "1"
    calls: list[int] = field(default_factory=list)

    @property
    def dim(self) -> int:
        return self.clip.dim

    @property
    def preprocessing(self) -> str:
        return self.clip.preprocessing

    @property
    def text_length(self) -> int:
        return self.clip.text_length

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        self.calls.append(len(images))
        return self.clip.features(images)

    def text_features(self, texts: Sequence[str]) -> np.ndarray:
        return self.clip.text_features(texts)

    def are_cut(self, texts: Sequence[str]) -> np.ndarray:
        return self.clip.are_cut(texts)


class _Blind(_Broken):
    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        return np.ones((len(images), self.dim), np.float32)


class _OfItsBatch(_Broken):
    """As batch norm that was left in training."""

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        rows = super().features(images)
        return np.asarray(rows - 0.5 * rows.mean(axis=0))


class _OfItsPlace(_Broken):
    """Counts from the end of what it is given."""

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        rows = super().features(images)
        return rows * np.linspace(1, 2, len(rows), dtype=np.float32)[:, None]


class _OfItsMood(_Broken):
    """As dropout that was left in training."""

    def features(self, images: Sequence[Image.Image]) -> np.ndarray:
        rows = super().features(images)
        kept = np.random.default_rng(len(self.calls)).random(rows.shape) > 0.2
        return np.asarray(rows * kept, np.float32)


class _WithoutEnd(_Broken):
    """Slices ids, and the token with them that a text is read at."""

    def text_features(self, texts: Sequence[str]) -> np.ndarray:
        ids = self.clip.tokenizer(list(texts), padding="longest", verbose=False, return_tensors="pt").input_ids
        with torch.no_grad():
            output = self.clip.model.get_text_features(ids[:, : self.text_length])
        embedding = output if isinstance(output, Tensor) else output.pooler_output
        return embedding.numpy()


class _Uncounting(_Broken):
    def are_cut(self, texts: Sequence[str]) -> np.ndarray:
        return np.zeros(len(texts), bool)


def test_every_check_passes_for_the_toy_panel(clip: ClipScorer, judge: JudgeScorer) -> None:
    found = check_panel(_panel(clip, judge), make_protocol(CONFIG))
    assert [check.name for check in found if not check.passed] == []
    names = {check.name for check in found}
    assert {TWICE, CUT, DIFFER, SAME, APART, KINDS, BATCH, ORDER} <= names
    assert {name.replace("clip", "judge") for name in (SAME, APART, KINDS, BATCH, ORDER)} <= names
    assert sum("AUC" in name for name in names) == 4
    assert sum("falls under" in name for name in names) == 3
    assert len(found) == len(names)


@pytest.mark.parametrize(
    ("broken", "names"),
    [
        (_Broken, set()),
        (_Blind, {APART}),
        (_OfItsBatch, {BATCH}),
        (_OfItsPlace, {BATCH, ORDER}),
        (_OfItsMood, {SAME, KINDS, BATCH, ORDER}),
        (_WithoutEnd, {DIFFER}),
        (_Uncounting, {CUT}),
    ],
)
def test_a_broken_network_fails_its_checks_and_no_others(
    clip: ClipScorer, monkeypatch: pytest.MonkeyPatch, broken: type[_Broken], names: set[str]
) -> None:
    # Spoilt pictures are looked at in the tests of the gates, and take longest.
    monkeypatch.setattr(checks, "_gates", lambda panel, shown: [])
    assert _failed(check_panel(_panel(broken(clip)), make_protocol(CONFIG))) == names


def test_a_network_that_ignores_its_input_fails_on_spoilt_pictures(clip: ClipScorer) -> None:
    found = check_panel(_panel(_Blind(clip)), make_protocol(CONFIG))
    assert sum(check.passed is False and "falls under" in check.name for check in found) == 3


def test_pictures_that_are_cut_and_not_rounded_fail(clip: ClipScorer, monkeypatch: pytest.MonkeyPatch) -> None:
    def cut(image: ImageLike) -> Image.Image:
        if isinstance(image, Tensor):
            # By way of [-1, 1], as an autoencoder has it.
            return Image.fromarray(((image * 2 - 1 + 1) * 127.5).byte().permute(1, 2, 0).numpy())
        return image if isinstance(image, Image.Image) else Image.fromarray(np.asarray(image))

    monkeypatch.setattr(checks, "_gates", lambda panel, shown: [])
    monkeypatch.setattr(checks, "picture", cut)
    # And what was divided by 255 twice is taken for a picture.
    assert _failed(check_panel(_panel(clip), make_protocol(CONFIG))) == {KINDS, TWICE}


def test_a_folder_of_pictures_is_checked_as_well(clip: ClipScorer, tmp_path: Path) -> None:
    for i in range(3):
        pixels = np.random.default_rng(i).integers(0, 256, (40 + 8 * i, 40, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{i}.png")
    protocol = {"kind": "folder", "references": str(tmp_path), "prompts": ["a person"], "bases": {"photo": "toy/photo"}}
    protocol |= {"image_encoder": "toy/image_encoder", "clip": "toy/clip"}
    config = EvalConfig.model_validate({"out": "unused", "protocol": protocol})
    assert _failed(check_panel(_panel(clip), make_protocol(config))) == set()
