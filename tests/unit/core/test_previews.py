"""Previews, priorities, and rows that run into numbers that are none."""

import numpy as np
import torch
from PIL import Image

from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import FINITE_EVERY, Engine
from nigaoe.core.engine.rows import Generation


def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(1).integers(0, 256, (96, 96, 3), dtype=np.uint8))


def test_a_preview_is_the_estimate_and_moves_nothing(base: Base) -> None:
    generations = [Generation(prompt="a man", seed=s, steps=10, sampler="euler_a") for s in (1, 2)]
    engine = Engine(base)
    tickets = [engine.submit(generation) for generation in generations]
    assert engine.preview(tickets) == {}
    finished: dict[int, Image.Image] = {}
    previews: list[Image.Image] = []
    while engine.active_rows:
        finished |= engine.step().pictures
        previews += engine.preview(tickets[:1]).values()
    assert engine.preview(tickets) == {}
    plain = Engine(base).generate(generations)
    for ticket, expected in zip(tickets, plain, strict=True):
        assert np.array_equal(np.asarray(finished[ticket]), np.asarray(expected))
    last = np.asarray(plain[0]).astype(int)
    distances = [np.abs(np.asarray(preview).astype(int) - last).mean() for preview in previews]
    assert len(distances) == 9
    assert distances[-1] < 5 < distances[0]


def test_a_preview_of_an_inpainted_row_keeps_what_stays(base: Base) -> None:
    mask = Image.new("L", (96, 96))
    mask.paste(255, (0, 0, 48, 96))
    start = Image.linear_gradient("L").resize((96, 96)).convert("RGB")
    engine = Engine(base)
    ticket = engine.submit(Generation(prompt="x", steps=10, init_image=start, inpaint_mask=mask, strength=1.0))
    engine.step()
    shown = np.asarray(engine.preview([ticket])[ticket]).astype(int)
    assert np.abs(shown - np.asarray(start).astype(int))[:, 64:].mean() < 12


def test_large_pictures_are_previewed_from_a_smaller_copy(base: Base) -> None:
    side = 64 * base.vae_factor
    engine = Engine(base)
    ticket = engine.submit(Generation(prompt="x", steps=3, width=side, height=side + base.size_multiple))
    engine.step()
    assert engine.preview([ticket])[ticket].size == (side, side + base.size_multiple)


def test_a_row_without_numbers_fails_soon_and_is_not_previewed(base: Base) -> None:
    engine = Engine(base)
    bad = engine.submit(Generation(prompt="x", seed=1, steps=50))
    good = engine.submit(Generation(prompt="x", seed=2, steps=50))
    engine.step()
    engine._active[0].latents = torch.full_like(engine._active[0].latents, float("inf"))
    engine.step()
    assert set(engine.preview([bad, good])) == {good}
    failed: dict[int, object] = {}
    for _ in range(FINITE_EVERY):
        failed |= engine.step().failures
    assert set(failed) == {bad}
    assert engine.active_rows == 1


def test_higher_priorities_are_stepped_first(base: Base) -> None:
    engine = Engine(base, max_rows=2)
    low = [engine.submit(Generation(prompt="x", seed=s, steps=3)) for s in range(2)]
    assert engine.step().rows == tuple(low)
    high = engine.submit(Generation(prompt="x", seed=9, steps=3), priority=1)
    assert engine.step().rows == (high, low[0])
    assert engine.step().rows == (high, low[0])
