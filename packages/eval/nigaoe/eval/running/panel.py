"""The panel: every network of an evaluation, loaded once, and what each says of a batch of pictures.

N pictures, K wrong partners of each, E numbers per embedding.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
from jaxtyping import Float32, Float64, UInt8
from PIL import Image

from nigaoe.core.errors import ConfigError
from nigaoe.core.toy.people import ATTRIBUTES
from nigaoe.eval.config import EvalConfig, ToyProtocolConfig
from nigaoe.eval.metrics.clip_score import HESSEL
from nigaoe.eval.metrics.clip_t import ClipT
from nigaoe.eval.metrics.diversity import Diversity
from nigaoe.eval.metrics.face_identity import FaceIdentity
from nigaoe.eval.metrics.image_similarity import ImageSimilarity
from nigaoe.eval.metrics.item_metric import ItemMetric
from nigaoe.eval.metrics.items import in_order
from nigaoe.eval.metrics.ms_ssim import MsSsim, scales_for
from nigaoe.eval.metrics.samples import Samples
from nigaoe.eval.metrics.space import space_of
from nigaoe.eval.metrics.ssim import Ssim
from nigaoe.eval.protocols.protocol import Sample
from nigaoe.eval.running.tables import WRONG
from nigaoe.eval.scoring.clip import ClipScorer
from nigaoe.eval.scoring.faces import FaceScorer
from nigaoe.eval.scoring.features import Named, setting_of
from nigaoe.eval.scoring.judge import JudgeScorer, judge_columns
from nigaoe.eval.scoring.loading import load_extractor
from nigaoe.eval.scoring.lpips import Lpips
from nigaoe.eval.scoring.remembering import (
    Digests,
    Rememberer,
    RememberingClip,
    RememberingExtractor,
    RememberingFaces,
)

Columns = dict[str, Float64[np.ndarray, " N"]]

FACE_AUC, FACE_RECOGNISED, FACE_FOUND, REFERENCE_FOUND = "_auc", "_recognised", "_found", "_reference_found"
"""Ends of names of a face encoder's columns; the first two need all samples of a cell."""


@dataclass(frozen=True, eq=False)
class Batch:
    """Pictures and what they are to be held against."""

    samples: Sequence[Sample]
    pictures: Sequence[Image.Image]
    strangers: Sequence[Sequence[Image.Image | None]]
    """K times N references of somebody else; None where there are fewer."""
    other_prompts: Sequence[Sequence[str | None]]
    """K times N prompts with other words."""

    @property
    def ids(self) -> list[str]:
        """Of the samples."""
        return [sample.id for sample in self.samples]

    @property
    def groups(self) -> list[str]:
        """Of the samples."""
        return [sample.group for sample in self.samples]

    @property
    def references(self) -> list[Image.Image]:
        """Of the samples."""
        return [sample.reference for sample in self.samples]


@dataclass(frozen=True, eq=False)
class Known:
    """What an earlier shard saw of real pictures."""

    keys: UInt8[np.ndarray, "N 16"]
    rows: Mapping[str, Float32[np.ndarray, "N E"]]
    """By the name of the network."""


@dataclass(frozen=True, eq=False)
class Panel:
    """Networks, each of which looks at a picture once."""

    clip: RememberingClip
    similar: Sequence[RememberingExtractor]
    """What compares a picture with its reference: the CLIP, a DINO."""
    spaces: Sequence[RememberingExtractor]
    """Under the distances of distributions."""
    faces: RememberingFaces | None
    judge: JudgeScorer | None
    lpips: Lpips | None
    digests: Digests = field(default_factory=Digests)
    """By which all of them know a picture."""

    @classmethod
    def load(cls, config: EvalConfig, device: str) -> "Panel":
        """Load what the config names.

        Raises:
            BaseModelError: Something is not there.
            ConfigError: Two networks would give figures of one name.
        """
        asked, is_toy = config.metrics, isinstance(config.protocol, ToyProtocolConfig)
        digests = Digests()
        clip = RememberingClip(ClipScorer.load(config.protocol.clip, device), digests)
        judge = JudgeScorer.load() if is_toy else None
        dino = [RememberingExtractor(load_extractor(f"dino:{asked.dino}", device), digests)] if asked.dino else []
        own: RememberingExtractor = clip if judge is None else RememberingExtractor(judge, digests)
        further = [RememberingExtractor(load_extractor(name, device), digests) for name in asked.features]
        spaces = [own, *further]
        names = [one.name for one in spaces]
        if len(set(names)) < len(names):
            raise ConfigError(f"two of the networks under distances are called alike: {', '.join(names)}; drop one")
        return cls(
            clip=clip,
            similar=[clip, *dino],
            spaces=spaces,
            faces=RememberingFaces(FaceScorer.load(asked.face_encoder), digests) if asked.face_encoder else None,
            judge=judge,
            lpips=Lpips.load(asked.lpips) if asked.lpips else None,
            digests=digests,
        )

    def settings(self) -> dict[str, str]:
        """Name and hash of what each figure is seen through."""
        clip = setting_of(self.clip)
        said = {"clip_t": clip, "clip_score": clip, "clip_diversity": clip}
        said |= {f"{one.name}_i": setting_of(one) for one in self.similar}
        if self.faces is not None:
            said |= {name: setting_of(self.faces) for name in face_names(self.faces)}
        if self.judge is not None:
            said |= {name: setting_of(self.judge) for name in JUDGED}
        if self.lpips is not None:
            said["lpips"] = setting_of(self.lpips)
        return said

    def know(self, known: Known | None) -> None:
        """Forget every picture but those."""
        self.digests.forget()
        nothing = np.zeros((0, 16), np.uint8)
        for one in self._rememberers():
            rows = None if known is None else known.rows.get(one.name)
            if known is None or rows is None:
                one.know(nothing, np.zeros((0, 0), np.float32))
            else:
                one.know(known.keys, rows)

    def embeddings(self, images: Sequence[Image.Image]) -> dict[str, Float32[np.ndarray, "N E"]]:
        """What pairs are compared by, to be known later."""
        rows = {one.name: one.features(images) for one in self.similar}
        if self.faces is not None:
            rows[self.faces.name] = np.stack([self.faces.row(image) for image in images])
        return rows

    def samples(self, images: Sequence[Image.Image], ids: Sequence[str]) -> dict[str, Samples]:
        """What distributions are compared by, by the name of the network."""
        return {one.name: Samples.of(space_of(one.extractor), one.features(images), ids) for one in self.spaces}

    def columns(self, batch: Batch) -> Columns:
        """Figures per picture, in the order of the batch, of right pairs and of wrong ones."""
        prompts = [sample.prompt for sample in batch.samples]
        columns: Columns = {}
        if any(prompts):
            columns |= _pairs(partial(ClipT, self.clip), batch, prompts, batch.other_prompts)
            columns["clip_score"] = HESSEL * np.maximum(columns["clip_t"], 0.0)
            columns["clip_t_cut"] = self.clip.are_cut(prompts).astype(np.float64)
        for one in self.similar:
            columns |= _pairs(partial(ImageSimilarity, one), batch, batch.references, batch.strangers)
        if self.faces is not None:
            columns |= _pairs(partial(FaceIdentity, self.faces), batch, batch.references, batch.strangers)
            columns |= _faces_found(self.faces, batch)
        if self.judge is not None:
            identities = [sample.identity for sample in batch.samples if sample.identity is not None]
            backgrounds = [sample.background for sample in batch.samples if sample.background is not None]
            judged = judge_columns(self.judge.answers(batch.pictures), identities, backgrounds)
            columns |= {name: np.array(values) for name, values in judged.items()}
        return columns

    def diversity(self, batch: Batch, whose: Sequence[str]) -> Columns:
        """How far pictures of one order, `whose`, are from one another; told of the first of each."""
        metric = Diversity(self.clip)
        metric.update(list(batch.pictures), batch.ids, whose)
        items = metric.items()
        values = np.full(len(batch.samples), np.nan)
        for order, value in zip(items.ids, items.values, strict=True):
            values[list(whose).index(order)] = value
        return {metric.name: values}

    def structure(self, batch: Batch, originals: Sequence[Image.Image]) -> Columns:
        """How much of each original is left, pixel by pixel."""
        scales = scales_for(min(min(original.size) for original in originals))
        columns: Columns = {}
        for make in (Ssim, partial(MsSsim, scales)):
            columns |= _pairs(make, batch, originals, [])
        if self.lpips is not None:
            columns["lpips"] = self.lpips.distances(list(batch.pictures), list(originals))
        return columns

    def _rememberers(self) -> list[Rememberer]:
        found: list[Rememberer] = [*self.similar, *self.spaces]
        return found if self.faces is None else [*found, self.faces]


JUDGED = (
    *(f"attribute.{name}" for name in (*ATTRIBUTES, "mean")),
    "judged_anime",
    "background_copied",
    "background_red",
)
"""What the judge says of a picture."""


def face_names(faces: Named) -> list[str]:
    """Of the figures of a face encoder."""
    return [f"face_{faces.name}{end}" for end in ("", FACE_AUC, FACE_RECOGNISED, FACE_FOUND)]


def _faces_found(faces: RememberingFaces, batch: Batch) -> Columns:
    sides = {FACE_FOUND: batch.pictures, REFERENCE_FOUND: batch.references}
    return {
        f"face_{faces.name}{end}": np.array([float(faces.identity(image) is not None) for image in side])
        for end, side in sides.items()
    }


def _pairs(
    make: Callable[[], Any], batch: Batch, partners: Sequence[Any], wrong: Sequence[Sequence[Any | None]]
) -> Columns:
    """A metric's figures of the right pairs, and of each round of wrong ones."""
    everyone = list(range(len(batch.samples)))
    metric: ItemMetric = make()
    columns = {metric.name: _scored(make(), batch, everyone, partners)}
    for k, others in enumerate(wrong):
        there = [i for i in everyone if others[i] is not None]
        values = np.full(len(everyone), np.nan)
        if there:
            values[there] = _scored(make(), batch, there, others)
        columns[f"{metric.name}{WRONG}{k}"] = values
    return columns


def _scored(metric: Any, batch: Batch, rows: Sequence[int], partners: Sequence[Any]) -> Float64[np.ndarray, " N"]:
    ids = [batch.ids[i] for i in rows]
    metric.update([batch.pictures[i] for i in rows], [partners[i] for i in rows], ids, [batch.groups[i] for i in rows])
    return in_order(metric.items(), ids)
