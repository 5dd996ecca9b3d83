"""Held-out people of the toy world, in pictures and words."""

import random
from dataclasses import dataclass

from PIL import Image

from nigaoe.core.toy.people import caption, sample_identity_of, sample_scene
from nigaoe.core.toy.render import render


@dataclass(frozen=True)
class People:
    """A photo of each, another photo of the same person, and what the first one shows."""

    images: list[Image.Image]
    others: list[Image.Image]
    captions: list[str]
    ids: list[str]


def draw_people(count: int, seed: int = 5) -> People:
    rng = random.Random(seed)
    images, others, captions = [], [], []
    for _ in range(count):
        person, scene = sample_identity_of("heldout", rng), sample_scene(rng)
        images.append(render(person, scene, "photo"))
        others.append(render(person, sample_scene(rng), "photo"))
        captions.append(caption(person, scene, "photo", rng, density=1.0))
    return People(images, others, captions, [f"sample-{i:02d}" for i in range(count)])
