"""What an order says, in the words of core: pictures, references and scales, and one `Generation` for each seed."""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.errors import AdapterError, ImageError
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.embedding_files import parse_embeddings
from nigaoe.core.image_prompts.layer_scales import LayerScales, layer_places, layer_scales
from nigaoe.core.image_prompts.masks import as_mask
from nigaoe.core.image_prompts.noise import noise_picture
from nigaoe.core.image_prompts.prompt import PromptScales
from nigaoe.core.image_prompts.remembering import RememberingFaceEncoder
from nigaoe.core.pixels import as_pil
from nigaoe.serve.orders import ImagePromptOrder, Order, Picture


@dataclass(frozen=True, eq=False)
class PreparedPrompt:
    """One image prompt of an order, all of it that needs no encoder."""

    adapter: IPAdapter
    references: tuple[Reference, ...]
    """One for all seeds; or one for each, where noise of their own is in it."""


@dataclass(frozen=True, eq=False)
class Prepared:
    """An order, all of it that needs no device; made beside the engine thread."""

    order: Order
    prompts: tuple[PreparedPrompt, ...]
    init: Image.Image | None
    inpaint_mask: Image.Image | None

    def image_prompts(self, conditioner: Conditioner, place: int) -> tuple[GuidedImagePrompt, ...]:
        """Encoded, for one of its seeds.

        Raises:
            NigaoeError: Something that the encoders or the adapter do not take.
        """
        return tuple(
            conditioner.prompt(prompt.adapter, prompt.references[place % len(prompt.references)])
            for prompt in self.prompts
        )

    @property
    def is_alike(self) -> bool:
        """Whether all seeds have the same image prompts."""
        return all(len(prompt.references) == 1 for prompt in self.prompts)

    def generation(self, place: int, image_prompts: tuple[GuidedImagePrompt, ...]) -> Generation:
        """What the engine is asked for."""
        order = self.order
        width, height = order.size or (None, None)
        return Generation(
            prompt=order.prompt,
            negative_prompt=order.negative_prompt,
            image_prompts=image_prompts,
            seed=order.seeds[place],
            steps=order.steps,
            guidance_scale=order.guidance_scale,
            sampler=order.sampler,
            width=width,
            height=height,
            init_image=self.init,
            strength=order.strength,
            inpaint_mask=self.inpaint_mask,
        )


def prepare(
    order: Order,
    base: Base,
    adapters: Sequence[IPAdapter],
    encoder_side: int | None,
    faces: RememberingFaceEncoder | None,
) -> Prepared:
    """Take an order's pictures and files apart, and search them for faces where these are read.

    Raises:
        NigaoeError: A picture, a file or a choice that cannot be.
    """
    prompts = []
    for said, adapter in zip(order.image_prompts, adapters, strict=True):
        try:
            adapter.require_fit(base.unet)
        except AdapterError as error:
            raise AdapterError(f"adapter {said.adapter.name!r} does not fit base {order.base!r}: {error}") from None
        prompts.append(PreparedPrompt(adapter, _references(said, order.seeds, base, encoder_side)))
        if faces is not None and ("identity" in adapter.variant.inputs or said.crop == "face"):
            for picture in prompts[-1].references[0].images:
                faces.find(picture)
    init = None if order.init is None else _image(order.init)
    mask = None if order.inpaint_mask is None else _grey(order.inpaint_mask)
    return Prepared(order, tuple(prompts), init, mask)


def _references(
    said: ImagePromptOrder, seeds: Sequence[int], base: Base, encoder_side: int | None
) -> tuple[Reference, ...]:
    images = tuple(_image(picture) for picture in said.pictures)
    reference = Reference(
        images=images,
        stored=None if said.embeddings is None else parse_embeddings(said.embeddings),
        crop=said.crop,
        crop_position=said.crop_position,
        negative=None if said.negative is None else _image(said.negative),
        scales=PromptScales(
            scale=said.scale,
            layers=_layers(said.layers, base),
            sides=said.sides,
            combination=said.combination,
            weights=said.weights,
            start=said.start,
            end=said.end,
            shortcut_scale=said.shortcut_scale,
            lora_scale=said.lora_scale,
        ),
        mask=None if said.mask is None else as_mask(_grey(said.mask)),
    )
    if said.noise is None:
        return (reference,)
    if encoder_side is None or not images:
        raise AdapterError(f"noise {said.noise!r} needs a picture and an image encoder; leave it out")
    start = reference.negative or images[0]
    # Of the seed, so that a picture is the same alone and among those of other seeds.
    return tuple(
        replace(
            reference,
            negative=noise_picture(
                said.noise,
                said.noise_strength,
                said.noise_blur,
                torch.Generator().manual_seed(seed),
                start,
                encoder_side,
            ),
        )
        for seed in seeds
    )


def _layers(said: str | tuple[float, ...] | None, base: Base) -> LayerScales | None:
    if said is None:
        return None
    return layer_scales(said, layer_places(base.unet)) if isinstance(said, str) else LayerScales(tuple(said))


def _image(picture: Picture) -> Image.Image:
    return as_pil(picture.pixels)


def _grey(picture: Picture) -> Image.Image:
    pixels = np.ascontiguousarray(picture.pixels)
    if pixels.dtype != np.uint8 or pixels.ndim not in (2, 3) or 0 in pixels.shape:
        raise ImageError(f"a mask of shape {list(pixels.shape)} was given; give uint8 [H, W]")
    return Image.fromarray(pixels) if pixels.ndim == 2 else _image(picture).convert("L")
