"""Rows do not know of each other: alone or among others, the same numbers."""

import numpy as np
import pytest
import torch
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.attention import ImagePrompt, attend
from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import Engine, Stepped
from nigaoe.core.engine.rows import Generation
from nigaoe.core.engine.slots import stack_image_prompts
from nigaoe.core.errors import RequestError
from nigaoe.core.image_prompts.features import embedding_features
from nigaoe.core.image_prompts.prompt import guided_image_prompts


def _latents(engine: Engine, ticket: int) -> torch.Tensor:
    return next(row.latents for row in engine._active if row.id == ticket)


def _mixed(adapter: IPAdapter) -> list[Generation]:
    embeds = torch.randn(3, adapter.embed_dim, generator=torch.Generator().manual_seed(1))
    strong, weak = (guided_image_prompts(adapter, embedding_features(embeds), scale) for scale in (1.0, 0.3))
    return [
        Generation(prompt="a photo of a man", seed=1, steps=12, guidance_scale=3.0, image_prompts=(strong[0],)),
        Generation(prompt="a woman", seed=2, steps=30, guidance_scale=1.0, image_prompts=(weak[1],)),
        Generation(prompt="", seed=3, steps=17, guidance_scale=7.5),
        Generation(prompt="x", negative_prompt="y", seed=4, steps=11, guidance_scale=1.0),
        Generation(prompt="a man", seed=5, steps=25, guidance_scale=2.0, image_prompts=(strong[2],)),
    ]


def test_a_row_alone_equals_the_row_among_others(base: Base, adapter: IPAdapter) -> None:
    generations = _mixed(adapter)
    together = Engine(base, max_rows=8)
    # The first rows are already under way when the others join: every row stands at another timestep.
    tickets = [together.submit(g) for g in generations[:2]]
    for _ in range(3):
        together.step()
    tickets += [together.submit(g) for g in generations[2:]]
    for _ in range(6):
        together.step()
    for ticket, generation, taken in zip(tickets, generations, [9, 9, 6, 6, 6], strict=True):
        alone = Engine(base, max_rows=8)
        own = alone.submit(generation)
        for _ in range(taken):
            alone.step()
        difference = (_latents(alone, own) - _latents(together, ticket)).abs().max()
        assert difference < 1e-5, f"{generation.seed} differs by {difference}"


def test_rows_leave_when_done_and_cancelled_ones_at_once(base: Base) -> None:
    engine = Engine(base, max_rows=2)
    first, second, third = (engine.submit(Generation(prompt="", seed=s, steps=s)) for s in (1, 2, 3))
    assert engine.pending_row_steps == 6
    assert set(engine.step().pictures) == {first}
    engine.cancel(second)
    assert engine.active_rows == 1
    finished: dict[int, Image.Image] = {}
    while engine.active_rows:
        finished |= engine.step().pictures
    assert set(finished) == {third}
    assert engine.step() == Stepped()


def test_more_rows_than_fit_are_all_finished_in_order(base: Base) -> None:
    generations = [Generation(prompt="", seed=s, steps=2, guidance_scale=1.0) for s in range(5)]
    pictures = Engine(base, max_rows=2).generate(generations)
    again = [Engine(base).generate([g])[0] for g in generations]
    for ours, alone in zip(pictures, again, strict=True):
        # Sums over another batch size round differently: at most one grey level of 255.
        assert np.abs(np.asarray(ours, np.int16) - np.asarray(alone, np.int16)).max() <= 1
    assert len({np.asarray(picture).tobytes() for picture in pictures}) == 5


@pytest.mark.parametrize(
    ("generation", "word"),
    [
        (Generation(prompt="", steps=0), "steps"),
        (Generation(prompt="", width=100), "width"),
        (Generation(prompt="", height=-16), "height"),
    ],
)
def test_impossible_requests_are_refused_by_name(base: Base, generation: Generation, word: str) -> None:
    with pytest.raises(RequestError, match=word):
        Engine(base).submit(generation)


def test_padding_and_absent_prompts_change_nothing() -> None:
    generator = torch.Generator().manual_seed(0)

    def prompt(tokens: int) -> ImagePrompt:
        shape = (1, tokens, 8)
        return ImagePrompt((torch.randn(shape, generator=generator),), (torch.randn(shape, generator=generator),))

    short, long = prompt(2), prompt(5)
    (batch,) = stack_image_prompts([[short], [], [long]])
    assert batch.mask is not None
    q = torch.randn(3, 1, 7, 8, generator=generator)
    out = attend(q, batch.keys[0][:, None], batch.values[0][:, None], batch.mask[:, None, None])
    torch.testing.assert_close(out[:1], attend(q[:1], short.keys[0][:, None], short.values[0][:, None]))
    assert out[1].abs().max() == 0
    torch.testing.assert_close(out[2:], attend(q[2:], long.keys[0][:, None], long.values[0][:, None]))
    assert stack_image_prompts([[], []]) == ()
