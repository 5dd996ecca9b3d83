"""Draws docs/images/image_prompts.png: what an image prompt can say, on the toy world.

python docs/examples/image_prompts.py docs/images/image_prompts.png
"""

import argparse
import random
from dataclasses import replace
from pathlib import Path

import torch
from PIL import Image, ImageDraw

from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.image_encoders import load_image_encoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.layer_scales import layer_places, layer_scales
from nigaoe.core.image_prompts.prompt import PromptScales
from nigaoe.core.models import locate
from nigaoe.core.toy.people import sample_identity_of, sample_scene
from nigaoe.core.toy.render import render

Cell = tuple[str, Generation | Image.Image]
SEED = 11


def person(number: int) -> Image.Image:
    """A photo of somebody whom no model has seen."""
    rng = random.Random(f"image prompts/{number}")
    return render(sample_identity_of("heldout", rng), sample_scene(rng), "photo")


def rows(base: Base) -> list[tuple[str, list[Cell]]]:
    """Every line of the picture."""
    adapter = load_adapter(Path(locate("toy/adapter", "adapter")) / "adapter.safetensors").requires_grad_(False)
    conditioner = Conditioner(load_image_encoder("toy/image_encoder"))
    ann, bob = person(300), person(10)
    plain = Generation(prompt="an anime drawing of a person", seed=SEED, steps=25, guidance_scale=3.0)
    side = base.default_size_px
    left = (torch.arange(side) < side // 2).float().expand(side, side).contiguous()
    soft = torch.linspace(1, 0, side).expand(side, side).contiguous()

    def of(*references: Reference) -> Generation:
        return replace(plain, image_prompts=tuple(conditioner.prompt(adapter, reference) for reference in references))

    def said(images: tuple[Image.Image, ...], scales: PromptScales, **kwargs: object) -> Reference:
        return Reference(images=images, scales=scales, **kwargs)  # type: ignore[arg-type]

    both = (ann, bob)
    loud = PromptScales(scale=1.2)
    weak = PromptScales(scale=1.2, layers=layer_scales("weak_output", layer_places(base.unet)))
    hat = Image.new("L", (side, side))
    hat.paste(255, (0, 0, side, side // 3))
    drawn = Engine(base).generate([of(said((ann,), loud))])[0]
    return [
        ("references", [("Ann", ann), ("Bob", bob), ("Ann, drawn", drawn)]),
        ("scale", [(f"{s:g}", of(said((ann,), PromptScales(scale=s)))) for s in (0.0, 0.4, 0.8, 1.2)]),
        (
            "two people",
            [
                (
                    f"{how} {weights[0]:g}:{weights[1]:g}",
                    of(said(both, replace(loud, combination=how, weights=weights))),
                )
                for how, weights in (
                    ("concat", (1.0, 1.0)),
                    ("average", (0.7, 0.3)),
                    ("average", (0.5, 0.5)),
                    ("average", (0.3, 0.7)),
                )
            ],
        ),
        (
            "where and when",
            [
                ("Bob left, Ann right", of(said((bob,), loud, mask=left), said((ann,), loud, mask=1 - left))),
                ("Bob to Ann, softly", of(said((bob,), loud, mask=soft), said((ann,), loud, mask=1 - soft))),
                ("Ann until 0.3", of(said((ann,), replace(loud, end=0.3)))),
                ("Ann, then Bob", of(said((ann,), replace(loud, end=0.4)), said((bob,), replace(loud, start=0.4)))),
            ],
        ),
        (
            "more",
            [
                ("not like Bob", replace(of(said((ann,), PromptScales(scale=0.8), negative=bob)), guidance_scale=1.7)),
                ("layers: weak_output", of(said((ann,), weak))),
                ("from her photo, 0.6", replace(of(said((ann,), loud)), init_image=ann, strength=0.6)),
                (
                    "new top third, of Bob",
                    replace(of(said((bob,), loud)), init_image=drawn, inpaint_mask=hat, strength=1.0),
                ),
            ],
        ),
    ]


def sheet(lines: list[tuple[str, list[Cell]]], base: Base) -> Image.Image:
    """All cells drawn in one engine, labelled."""
    wanted = [cell[1] for _, cells in lines for cell in cells if isinstance(cell[1], Generation)]
    drawn = iter(Engine(base).generate(wanted))
    side, margin, label = base.default_size_px * 2, 8, 18
    columns = max(len(cells) for _, cells in lines)
    step = side + margin
    canvas = Image.new("RGB", (columns * step + margin, len(lines) * (side + margin + 2 * label)), "white")
    pen = ImageDraw.Draw(canvas)
    for y, (title, cells) in enumerate(lines):
        top = y * (side + margin + 2 * label)
        pen.text((margin, top + 4), title, "black", font_size=14)
        for x, (name, content) in enumerate(cells):
            picture = next(drawn) if isinstance(content, Generation) else content
            canvas.paste(picture.resize((side, side), Image.Resampling.LANCZOS), (margin + x * step, top + label + 4))
            pen.text((margin + x * step, top + label + side + 6), name, "dimgrey", font_size=12)
    return canvas


def main() -> None:
    """Draw the picture."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    base = load_base("toy/anime")
    sheet(rows(base), base).save(arguments.out)


if __name__ == "__main__":
    main()
