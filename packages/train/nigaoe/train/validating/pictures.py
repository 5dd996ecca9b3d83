"""What an adapter makes of held-out people: pictures of each, from the same noise at every checkpoint."""

from collections.abc import Sequence
from typing import NamedTuple

from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.errors import ImageError
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.prompt import PromptScales
from nigaoe.core.picture_grid import picture_grid
from nigaoe.train.config import ValidationConfig
from nigaoe.train.preparing.rows import prompting
from nigaoe.train.records.pictures import read_picture
from nigaoe.train.records.record import Record

MAX_ROWS = 8
"""Pictures that are drawn at once."""


class Person(NamedTuple):
    """A reference."""

    key: str
    identity: str
    picture: Image.Image
    prompt: GuidedImagePrompt


def choose_people(
    ordered: Sequence[Record], count: int, adapter: IPAdapter, conditioner: Conditioner, scale: float
) -> list[Person]:
    """References, of as many people as there are; rows that cannot be read or show no face are passed over."""
    met: dict[str, int] = {}
    turns = []
    for record in ordered:
        met[record.identity] = met.get(record.identity, 0) + 1
        turns.append(met[record.identity])
    found: list[Person] = []
    # Nobody's second picture comes before everybody's first.
    for _, record in sorted(zip(turns, ordered, strict=True), key=lambda pair: pair[0]):
        if len(found) == count:
            break
        try:
            picture = read_picture(prompting(record))
            reference = Reference(images=(picture,), scales=PromptScales(scale=scale))
            found.append(Person(record.key, record.identity, picture, conditioner.prompt(adapter, reference)))
        except ImageError:
            continue
    return found


def draw(people: Sequence[Person], base: Base, settings: ValidationConfig, side_px: int) -> list[list[Image.Image]]:
    """Pictures of each person, one per prompt; all from one seed, so that people differ by their references alone."""
    generations = [
        Generation(
            prompt=prompt,
            image_prompts=(person.prompt,),
            seed=settings.seed,
            steps=settings.steps,
            guidance_scale=settings.guidance_scale,
            width=side_px,
            height=side_px,
        )
        for person in people
        for prompt in settings.prompts
    ]
    pictures = Engine(base, MAX_ROWS).generate(generations)
    columns = len(settings.prompts)
    return [pictures[start : start + columns] for start in range(0, len(pictures), columns)]


def labelled_grid(
    people: Sequence[Person], drawn: Sequence[Sequence[Image.Image]], prompts: Sequence[str]
) -> Image.Image:
    """A row per person: the reference, then what was drawn of it."""
    rows = [[person.picture, *pictures] for person, pictures in zip(people, drawn, strict=True)]
    return picture_grid(["reference", *prompts], rows, [person.key for person in people])
