"""All that an order can say of image prompts reaches core: drawn through a replica, it is what core's engine draws."""

import asyncio
import re
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.image_encoders import ImageEncoder
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.embedding_files import parse_embeddings
from nigaoe.core.image_prompts.layer_scales import LayerScales, layer_places, layer_scales
from nigaoe.core.image_prompts.noise import noise_picture
from nigaoe.core.image_prompts.prompt import PromptScales
from nigaoe.serve.engine.replica import Replica
from nigaoe.serve.orders import AdapterAt, Drawn, ImagePromptOrder, Order, Picture
from served import drawn, order_of, person, pixels, refused

SIDE = 96


@pytest.fixture(scope="module")
def anime() -> Base:
    return load_base("toy/anime")


@pytest.fixture(scope="module")
def likeness() -> IPAdapter:
    return load_adapter("toy/adapter").requires_grad_(False)


@pytest.fixture(scope="module")
def conditioner(encoder: ImageEncoder) -> Conditioner:
    return Conditioner(encoder)


def pil(picture: Picture) -> Image.Image:
    return Image.fromarray(picture.pixels)


ANN, BOB = person(1), person(2)
WIDE = Picture(np.asarray(pil(person(3)).resize((128, 64))))
LEFT = Picture(np.repeat(np.where(np.arange(SIDE) < SIDE // 2, 255, 0).astype(np.uint8)[None], SIDE, 0))

SAID: dict[str, tuple[dict[str, Any], Callable[[Base], dict[str, Any]]]] = {
    "several": ({"pictures": (ANN, BOB)}, lambda base: {"images": (pil(ANN), pil(BOB))}),
    "weights": (
        {"pictures": (ANN, BOB), "weights": (0.9, 0.2)},
        lambda base: {"images": (pil(ANN), pil(BOB)), "scales": PromptScales(weights=(0.9, 0.2))},
    ),
    "combination": (
        {"pictures": (ANN, BOB), "combination": "norm_average", "weights": (0.7, 0.3), "scale": 1.2},
        lambda base: {
            "images": (pil(ANN), pil(BOB)),
            "scales": PromptScales(scale=1.2, combination="norm_average", weights=(0.7, 0.3)),
        },
    ),
    "pad": ({"pictures": (WIDE,), "crop": "pad"}, lambda base: {"images": (pil(WIDE),), "crop": "pad"}),
    "tile": ({"pictures": (WIDE,), "crop": "tile"}, lambda base: {"images": (pil(WIDE),), "crop": "tile"}),
    "position": (
        {"pictures": (WIDE,), "crop_position": (0.0, 0.5)},
        lambda base: {"images": (pil(WIDE),), "crop_position": (0.0, 0.5)},
    ),
    "preset": (
        {"layers": "weak_output", "scale": 1.3},
        lambda base: {"scales": PromptScales(scale=1.3, layers=layer_scales("weak_output", layer_places(base.unet)))},
    ),
    "factors": (
        {"layers": (0, 0.2, 0.4, 1, 1.2, 0.5, 0.3)},
        lambda base: {"scales": PromptScales(layers=LayerScales((0, 0.2, 0.4, 1, 1.2, 0.5, 0.3)))},
    ),
    "sides": ({"sides": "k_mean_v_c"}, lambda base: {"scales": PromptScales(sides="k_mean_v_c")}),
    "window": ({"start": 0.25, "end": 0.75}, lambda base: {"scales": PromptScales(start=0.25, end=0.75)}),
    "mask": ({"mask": LEFT}, lambda base: {"mask": (torch.arange(SIDE) < SIDE // 2).float().expand(SIDE, SIDE)}),
    "negative": ({"negative": BOB}, lambda base: {"negative": pil(BOB)}),
}
"""Beside the picture of Ann: what the order says, and what is said to core."""


def core_picture(base: Base, generation: Generation) -> np.ndarray:
    return np.asarray(Engine(base).generate([generation])[0]).astype(int)


def greatest(drawing: Drawn, expected: np.ndarray) -> int:
    return int(np.abs(pixels(drawing)[0] - expected).max())


def generation(**changes: Any) -> Generation:
    values: dict[str, Any] = {"prompt": "a woman, anime", "seed": 1, "steps": 4, "guidance_scale": 3.0}
    return Generation(**(values | changes))


def said(at: AdapterAt, **changes: Any) -> Order:
    values: dict[str, Any] = {"adapter": at, "pictures": (ANN,)}
    return order_of(image_prompts=(ImagePromptOrder(**(values | changes)),))


@pytest.mark.parametrize("what", SAID)
def test_what_an_image_prompt_says(
    engine_replica: Replica,
    trained: AdapterAt,
    anime: Base,
    likeness: IPAdapter,
    conditioner: Conditioner,
    what: str,
) -> None:
    ordered, of_core = SAID[what]
    reference = Reference(**({"images": (pil(ANN),)} | of_core(anime)))
    expected = core_picture(anime, generation(image_prompts=(conditioner.prompt(likeness, reference),)))
    got = drawn(engine_replica, said(trained, **ordered))
    assert greatest(got, expected) <= 1
    plain = core_picture(
        anime, generation(image_prompts=(conditioner.prompt(likeness, Reference(images=(pil(ANN),))),))
    )
    assert np.abs(expected - plain).max() > 1, "it changes nothing, so that this test could not fail"


@pytest.mark.parametrize("kind", ["fade", "dissolve", "gaussian", "shuffle"])
def test_noise_is_of_each_seed(
    engine_replica: Replica,
    trained: AdapterAt,
    anime: Base,
    likeness: IPAdapter,
    conditioner: Conditioner,
    encoder: ImageEncoder,
    kind: Any,
) -> None:
    order = replace(said(trained, noise=kind, noise_strength=0.7, noise_blur=1.5), seeds=(5, 6))
    got = pixels(drawn(engine_replica, order))
    for seed, picture in zip((5, 6), got, strict=True):
        negative = noise_picture(kind, 0.7, 1.5, torch.Generator().manual_seed(seed), pil(ANN), encoder.side)
        reference = Reference(images=(pil(ANN),), negative=negative)
        prompt = conditioner.prompt(likeness, reference)
        assert np.abs(picture - core_picture(anime, generation(seed=seed, image_prompts=(prompt,)))).max() <= 1


def test_noise_of_a_negative_picture(
    engine_replica: Replica, trained: AdapterAt, anime: Base, likeness: IPAdapter, conditioner: Conditioner
) -> None:
    side = conditioner.encoder_side
    assert side is not None
    negative = noise_picture("gaussian", 0.5, 0.0, torch.Generator().manual_seed(1), pil(BOB), side)
    prompt = conditioner.prompt(likeness, Reference(images=(pil(ANN),), negative=negative))
    got = drawn(engine_replica, said(trained, noise="gaussian", negative=BOB))
    assert greatest(got, core_picture(anime, generation(image_prompts=(prompt,)))) <= 1


def test_several_adapters_at_once(
    engine_replica: Replica,
    trained: AdapterAt,
    untrained: AdapterAt,
    anime: Base,
    likeness: IPAdapter,
    adapter: IPAdapter,
    conditioner: Conditioner,
) -> None:
    order = order_of(
        image_prompts=(
            ImagePromptOrder(adapter=trained, pictures=(ANN,), mask=LEFT),
            ImagePromptOrder(adapter=untrained, pictures=(BOB,), scale=0.4),
        )
    )
    mask = (torch.arange(SIDE) < SIDE // 2).float().expand(SIDE, SIDE)
    prompts = (
        conditioner.prompt(likeness, Reference(images=(pil(ANN),), mask=mask)),
        conditioner.prompt(adapter, Reference(images=(pil(BOB),), scales=PromptScales(scale=0.4))),
    )
    assert greatest(drawn(engine_replica, order), core_picture(anime, generation(image_prompts=prompts))) <= 1


def test_stored_embeddings_stand_for_pictures(engine_replica: Replica, trained: AdapterAt) -> None:
    content = asyncio.run(engine_replica.embed((ANN, BOB)))
    assert isinstance(content, bytes)
    stored = parse_embeddings(content)
    assert len(stored) == 2
    assert set(stored.conditional) == {"image_embeds", "hidden_states"}
    assert stored.encoder == "toy/image_encoder"
    by_file = drawn(engine_replica, said(trained, pictures=(), embeddings=content, weights=(1.0, 0.5)))
    by_pictures = drawn(engine_replica, said(trained, pictures=(ANN, BOB), weights=(1.0, 0.5)))
    assert max(np.abs(a - b).max() for a, b in zip(pixels(by_file), pixels(by_pictures), strict=True)) <= 1


def test_what_embeddings_cannot_be(engine_replica: Replica, trained: AdapterAt) -> None:
    pickled = b"PK\x03\x04" + bytes(64)
    for content in (b"", b"\xff" * 64, pickled, (2**40).to_bytes(8, "little") + b"{}"):
        refusal = refused(engine_replica, said(trained, pictures=(), embeddings=content))
        assert refusal.kind == "invalid"
        assert refusal.reason.startswith("the embedding file is damaged or truncated; ")
    nothing = asyncio.run(engine_replica.embed(()))
    assert not isinstance(nothing, bytes)
    assert (nothing.kind, nothing.reason.split(";")[0]) == (
        "invalid",
        "embeddings need at least one picture and an encoder",
    )


def test_a_picture_to_start_from(engine_replica: Replica, anime: Base) -> None:
    order = order_of(init=ANN, strength=0.5, steps=8, sampler="dpmpp_2m_karras", negative_prompt="hat")
    expected = generation(init_image=pil(ANN), strength=0.5, steps=8, sampler="dpmpp_2m_karras", negative_prompt="hat")
    assert greatest(drawn(engine_replica, order), core_picture(anime, expected)) <= 1


def test_a_part_that_is_drawn_anew(engine_replica: Replica, anime: Base) -> None:
    order = order_of(init=ANN, inpaint_mask=LEFT, strength=1.0, steps=6, sampler="euler_a")
    expected = generation(init_image=pil(ANN), inpaint_mask=pil(LEFT), strength=1.0, steps=6, sampler="euler_a")
    got = drawn(engine_replica, order)
    assert greatest(got, core_picture(anime, expected)) <= 1
    right = slice(SIDE // 2 + 16, None)
    # What is kept went through the autoencoder.
    assert np.abs(pixels(got)[0][:, right] - ANN.pixels.astype(int)[:, right]).mean() < 16


@pytest.mark.parametrize("sampler", ["ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "lcm"])
def test_every_sampler_and_size(engine_replica: Replica, anime: Base, sampler: Any) -> None:
    order = order_of(sampler=sampler, size=(128, 64), guidance_scale=1.0)
    expected = core_picture(anime, generation(sampler=sampler, width=128, height=64, guidance_scale=1.0))
    assert expected.shape == (64, 128, 3)
    assert greatest(drawn(engine_replica, order), expected) <= 1


REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"pictures": ()}, "at least one picture"),
    ({"layers": "style"}, "layer preset 'style' is for Stable Diffusion"),
    ({"layers": (1.0, 2.0)}, "2 layer factors were given for an adapter of 7 layers"),
    ({"crop": "face"}, "there is no face encoder"),
    ({"mask": Picture(np.zeros((8, 8), np.uint8))}, "the mask of an image prompt is 8x8 px"),
    ({"mask": Picture(np.zeros((8, 8, 2), np.uint8))}, r"a picture of shape \[8, 8, 2\] was given"),
    ({"mask": Picture(np.zeros(8, np.uint8))}, r"a mask of shape \[8\] was given"),
    ({"pictures": (Picture(np.zeros((8, 8), np.uint8)),)}, r"a picture of shape \[8, 8\] was given"),
    ({"weights": (1.0, 2.0)}, "2 weights were given for 1 pictures"),
    ({"scale": float("nan")}, "scale nan is outside"),
    ({"start": 0.9, "end": 0.95}, "hold no whole step of 4"),
    ({"embeddings": b"x"}, "the embedding file is damaged"),
    ({"noise": "fade", "noise_strength": 2.0}, "noise strength 2.0 is outside"),
    ({"pictures": (), "noise": "fade"}, "noise 'fade' needs a picture and an image encoder"),
]


@pytest.mark.parametrize(("changes", "message"), REFUSED)
def test_what_cannot_be_is_refused_in_a_sentence(
    engine_replica: Replica, trained: AdapterAt, changes: dict[str, Any], message: str
) -> None:
    refusal = refused(engine_replica, said(trained, **changes))
    assert refusal.kind == "invalid"
    assert re.search(message, refusal.reason), refusal.reason
