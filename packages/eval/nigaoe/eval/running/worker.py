"""One worker: makes a shard's pictures and shows them to the panel. A result depends on its task alone."""

import io
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import numpy as np
import torch
from PIL import Image

from nigaoe.core.engine.allocator import keep_freed_memory
from nigaoe.core.errors import ImageError
from nigaoe.core.images import CODEC
from nigaoe.core.reports import Check
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.making.engine_pictures import EnginePictures
from nigaoe.eval.making.folder_pictures import FolderPictures
from nigaoe.eval.making.server_pictures import ServerPictures
from nigaoe.eval.metrics.space import FeatureSpace, space_of
from nigaoe.eval.protocols.make import make_protocol
from nigaoe.eval.protocols.protocol import DRAWN, REAL, CellPlan, Sample, of_other_words, row_seed, strangers
from nigaoe.eval.running.checks import check_panel
from nigaoe.eval.running.gallery import thumbnail
from nigaoe.eval.running.panel import Batch, Columns, Known, Panel
from nigaoe.eval.running.shards import ShardResult, ShardTask, smaller
from nigaoe.eval.running.tables import SampleTable

T = TypeVar("T")
LOSSY = ("JPEG", "MPO", "WEBP", "AVIF", "JPEG2000")
"""Formats that mostly lose what networks look at; a WebP that lost nothing counts as one that did."""


@dataclass(frozen=True)
class WorkerSpec:
    """What every worker is told once."""

    config: EvalConfig
    adapters: dict[str, Path]
    folder: Path
    """Where the config's relative paths start."""
    device: str


@dataclass(frozen=True)
class Findings:
    """What is known of the networks before the first picture."""

    checks: list[Check]
    settings: dict[str, str]
    """Name and hash of what each figure per sample is seen through."""
    spaces: list[FeatureSpace]
    """Under the distances of distributions."""


@dataclass(frozen=True, eq=False)
class Made:
    """A shard's pictures, and the samples that have none."""

    samples: list[Sample]
    pictures: list[Image.Image]
    failed: dict[str, str]


class ShardWorker:
    """Evaluates shards, one after the other. Runs as a Ray actor, and as well without Ray."""

    def __init__(self, spec: WorkerSpec) -> None:
        """Networks are loaded when they are first needed: what is wrong with them is then said as a call's failure."""
        # One thread: sums of floats are then in the same order on every machine of a kind.
        torch.set_num_threads(1)
        if spec.folder.is_dir():
            # A cluster's workers may start elsewhere. Where the folder does not exist, relative paths would not either.
            os.chdir(spec.folder)
        if spec.device == "cpu":
            keep_freed_memory()
        self.config, self.device = spec.config, spec.device
        self.protocol = make_protocol(spec.config)
        self.engine = EnginePictures(spec.config, spec.adapters, spec.device)
        self._folders: dict[str, FolderPictures] = {}

    @cached_property
    def panel(self) -> Panel:
        """All networks that look at pictures."""
        return Panel.load(self.config, self.device)

    def ready(self) -> bool:
        """Tell that the worker has started."""
        return True

    def check(self) -> Findings:
        """Look whether the panel can be believed, on real pictures of this run."""
        spaces = [space_of(one.extractor) for one in self.panel.spaces]
        return Findings(check_panel(self.panel, self.protocol), self.panel.settings(), spaces)

    def evaluate(self, task: ShardTask, known: Known | None = None) -> ShardResult:
        """Make a shard's pictures and score them; `known`: what was seen of their references."""
        cell = task.cell
        self.panel.know(known)
        by_place = {place: self.protocol.sample(cell, place) for place in range(task.start, task.stop)}
        samples = list(by_place.values())
        made = self._make(task, samples)
        ids = [sample.id for sample in made.samples]
        is_real = cell.source in REAL
        columns = _facts(made.pictures)
        if made.samples and not is_real:
            columns |= self._columns(task, made, by_place)
        seen = self.panel.samples(made.pictures, ids) if made.samples else {}
        shown = {sample.id for sample in samples[: task.thumbnails]}
        pairs = list(zip(ids, made.pictures, strict=True))
        return ShardResult(
            id=task.id,
            fingerprint=task.fingerprint,
            table=_whole_table(samples, ids, columns, made.failed),
            statistics={name: smaller(one, task.keeps_features) for name, one in seen.items()},
            embeddings=self.panel.embeddings(made.pictures) if cell.source == "references" else {},
            keys=self.panel.digests.rows(made.pictures),
            thumbnails={name: thumbnail(picture) for name, picture in pairs if name in shown},
            images={name: _png(picture) for name, picture in pairs} if self.config.keep_images and not is_real else {},
        )

    def _columns(self, task: ShardTask, made: Made, samples: dict[int, Sample]) -> Columns:
        cell, batch = task.cell, self._batch(task, made, samples)
        columns = self.panel.columns(batch)
        if cell.source in DRAWN:
            if self.config.seeds > 1:
                first = {sample.id: place - place % self.config.seeds for place, sample in samples.items()}
                whose = [self.protocol.sample_id(cell, first[sample.id]) for sample in made.samples]
                columns |= self.panel.diversity(batch, whose)
            same = self.panel.digests.rows(made.pictures) == self.panel.digests.rows(batch.references)
            columns["is_reference"] = same.all(axis=1).astype(np.float64)
        if cell.source == "reconstruction":
            originals = [sample.picture for sample in made.samples if sample.picture is not None]
            columns |= self.panel.structure(batch, self.engine.cropped(cell, originals))
        return columns

    def _batch(self, task: ShardTask, made: Made, samples: dict[int, Sample]) -> Batch:
        """The pictures, with the references of strangers and prompts of other words."""
        cell, protocol = task.cell, self.protocol
        kept = {sample.id: sample for sample in made.samples}
        places = [place for place, sample in samples.items() if sample.id in kept]
        strange = [strangers(protocol, cell, place) for place in places]
        for place in {place for row in strange for place in row} - set(samples):
            samples[place] = protocol.sample(cell, place)
        worded = [of_other_words(protocol, cell, place) for place in places]
        return Batch(
            samples=made.samples,
            pictures=made.pictures,
            strangers=_rounds(strange, lambda place: samples[place].reference),
            other_prompts=_rounds(worded, lambda place: protocol.prompt(cell, place)),
        )

    def _make(self, task: ShardTask, samples: list[Sample]) -> Made:
        cell = task.cell
        seeds = [row_seed(self.config.seed, index) for index in range(task.start, task.stop)]
        match cell.source:
            case "generation":
                return Made(samples, self.engine.draw(cell, samples, seeds), {})
            case "folder":
                return self._read(cell, samples)
            case "server":
                assert cell.target is not None
                with ServerPictures(self.config.servers[cell.target]) as server:
                    return _sorted_out(samples, server.draw(samples, seeds))
            case _:
                given = [sample.picture for sample in samples if sample.picture is not None]
                is_through = cell.source == "reconstruction"
                return Made(samples, self.engine.reconstruct(cell, given) if is_through else given, {})

    def _read(self, cell: CellPlan, samples: list[Sample]) -> Made:
        assert cell.target is not None
        if cell.target not in self._folders:
            self._folders[cell.target] = FolderPictures.open(self.config.folders[cell.target].pictures)
        folder, found = self._folders[cell.target], list[Image.Image | str]()
        for sample in samples:
            folder.require_prompt(sample.id, sample.prompt)
            try:
                found.append(folder.read(sample))
            except ImageError as error:
                found.append(str(error))
        is_known = all(sample.id in folder.prompts for sample in samples)
        # Whether a picture shows what it was asked for can only be asked where somebody says what that was.
        asked = samples if is_known else [replace(sample, prompt="") for sample in samples]
        return _sorted_out(asked, found)


def _facts(pictures: Sequence[Image.Image]) -> Columns:
    sizes = np.array([picture.size for picture in pictures], np.float64).reshape(-1, 2)
    lossy = np.array([picture.info.get(CODEC) in LOSSY for picture in pictures], np.float64)
    return {"width_px": sizes[:, 0], "height_px": sizes[:, 1], "is_lossy": lossy}


def _rounds(rows: Sequence[Sequence[int]], look: Callable[[int], T]) -> list[list[T | None]]:
    """K lists of what each row's k-th place holds; None where a row is shorter."""
    longest = max((len(row) for row in rows), default=0)
    return [[look(row[k]) if k < len(row) else None for row in rows] for k in range(longest)]


def _sorted_out(samples: list[Sample], found: Sequence[Image.Image | str]) -> Made:
    pairs = list(zip(samples, found, strict=True))
    kept = [(sample, one) for sample, one in pairs if isinstance(one, Image.Image)]
    failed = {sample.id: one for sample, one in pairs if isinstance(one, str)}
    return Made([sample for sample, _ in kept], [picture for _, picture in kept], failed)


def _whole_table(samples: list[Sample], ids: list[str], columns: Columns, failed: dict[str, str]) -> SampleTable:
    """Figures of all samples; NaN for those that failed."""
    places = {sample.id: i for i, sample in enumerate(samples)}
    rows = [places[name] for name in ids]
    whole = {}
    for name, values in columns.items():
        whole[name] = np.full(len(samples), np.nan)
        whole[name][rows] = values
    return SampleTable(tuple(sample.id for sample in samples), tuple(sample.group for sample in samples), whole, failed)


def _png(image: Image.Image) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()
