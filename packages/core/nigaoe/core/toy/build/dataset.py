"""The pictures that the toy world's models learn from: training identities only, rendered once."""

import multiprocessing
import random
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from nigaoe.core.toy.people import Split, Style, caption, sample_identity_of, sample_scene
from nigaoe.core.toy.render import render

CAPTIONS_PER_IMAGE = 6


@dataclass(frozen=True)
class Pictures:
    """Renderings of one style. Several scenes per person stand one after the other."""

    images: Tensor
    """uint8 [N, 3, H, W]."""
    labels: Tensor
    """int64 [N, attributes]: the person."""
    scenes: Tensor
    """int64 [N, 3]: background, shirt, expression."""
    captions: list[list[str]]
    scenes_per_person: int

    def floats(self, index: Tensor) -> Tensor:
        """Chosen pictures as float32 [B, 3, H, W] in [-1, 1]."""
        return self.images[index].float() / 127.5 - 1


def _draw(job: tuple[int, Split, Style, int]) -> list[tuple[np.ndarray, list[int], list[int], list[str]]]:
    person_seed, split, style, count = job
    identity = sample_identity_of(split, random.Random(person_seed))
    rng = random.Random(f"{person_seed}/{style}")
    rows = []
    for _ in range(count):
        scene = sample_scene(rng)
        pixels = np.asarray(render(identity, scene, style)).transpose(2, 0, 1)
        captions = [caption(identity, scene, style, rng) for _ in range(CAPTIONS_PER_IMAGE)]
        rows.append((pixels, identity.labels(), [scene.background, scene.shirt, scene.expression], captions))
    return rows


def pictures(work: Path, split: Split, style: Style, people: int, scenes_per_person: int, seed: int) -> Pictures:
    """Render, or load what was rendered before. Person i is the same in both styles."""
    path = work / f"{split}-{style}-{people}x{scenes_per_person}-{seed}.pt"
    if not path.exists():
        jobs = [(seed * 1_000_003 + i, split, style, scenes_per_person) for i in range(people)]
        with multiprocessing.get_context("spawn").Pool() as pool:
            rows = [row for person in pool.imap(_draw, jobs, chunksize=32) for row in person]
        stored = {
            "images": torch.from_numpy(np.stack([row[0] for row in rows])),
            "labels": torch.tensor([row[1] for row in rows]),
            "scenes": torch.tensor([row[2] for row in rows]),
            "captions": [row[3] for row in rows],
        }
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(stored, path.with_suffix(".part"))
        path.with_suffix(".part").rename(path)
    return Pictures(**torch.load(path, weights_only=True), scenes_per_person=scenes_per_person)
