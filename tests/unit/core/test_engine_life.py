"""How rows live in an engine: whose turn it is, who comes and goes, who fails alone, and what is told of them."""

import math
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from pathlib import Path
from weakref import ref

import numpy as np
import pytest
import torch
from diffusers import UNet2DConditionModel
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.engine import Engine, Stepped
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt, Row
from nigaoe.core.engine.turns import Turns
from nigaoe.core.errors import GenerationError, RequestError
from nigaoe.core.image_prompts.features import embedding_features
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.samplers.registry import SamplerName
from nigaoe.core.unet_call import UNetCall, run_unet
from tiny_worlds import SIDE_PX

ROUNDING = 1e-5
"""Between calls of other numbers of rows, as a share of the largest number."""


@pytest.fixture(scope="module")
def tiny(tiny_base: Callable[[str], Path]) -> Base:
    return load_base(str(tiny_base("sd")))


@pytest.fixture(scope="module")
def prompt(tiny: Base) -> GuidedImagePrompt:
    torch.manual_seed(4)
    adapter = IPAdapter.for_unet(tiny.unet, features={"image_embeds": 24}).eval().requires_grad_(False)
    return guided_image_prompts(adapter, embedding_features(torch.randn(1, 24)))[0]


def _square(side: int, **asked: object) -> Generation:
    return replace(Generation(prompt="", width=side, height=side), **asked)  # type: ignore[arg-type]


def _rows(base: Base, generations: Sequence[Generation]) -> list[Row]:
    engine = Engine(base)
    for generation in generations:
        engine.submit(generation)
    return engine._active


def _work(rows: Sequence[Row]) -> int:
    """As turns count it: latent numbers that go through the UNet."""
    return sum(row.latents.numel() * (1 + row.is_guided) for row in rows)


def _until_done(engine: Engine) -> tuple[dict[int, Image.Image], dict[int, GenerationError]]:
    pictures: dict[int, Image.Image] = {}
    failures: dict[int, GenerationError] = {}
    while engine.active_rows:
        stepped = engine.step()
        pictures |= stepped.pictures
        failures |= stepped.failures
    return pictures, failures


def _alone(base: Base, generation: Generation) -> Row:
    engine = Engine(base)
    engine.submit(generation)
    (row,) = engine._active
    assert not _until_done(engine)[1]
    return row


def _same(ours: Tensor, theirs: Tensor) -> bool:
    return bool((ours - theirs).abs().max() <= ROUNDING * max(1.0, float(theirs.abs().max())))


def _look_alike(ours: Image.Image, theirs: Image.Image) -> bool:
    return bool(np.abs(np.asarray(ours, np.int16) - np.asarray(theirs, np.int16)).max() <= 1)


CROWDS = st.dictionaries(
    st.sampled_from((8, 16, 24, 32, 48)), st.tuples(st.integers(1, 6), st.booleans()), min_size=2, max_size=5
)
"""By side: how many rows, and whether they are guided."""


@settings(max_examples=50, deadline=None, derandomize=True, database=None)
@given(crowds=CROWDS, most=st.integers(1, 8), taken=st.integers(0, 60))
def test_shapes_get_equal_shares_of_the_work(
    tiny: Base, crowds: dict[int, tuple[int, bool]], most: int, taken: int
) -> None:
    """Never further apart than one call, whatever the crowds; a newcomer shares what is done from then on."""
    rows = _rows(
        tiny,
        [
            _square(side, guidance_scale=4.0 if is_guided else 1.0)
            for side, (count, is_guided) in crowds.items()
            for _ in range(count)
        ],
    )
    newcomer = _rows(tiny, [_square(64)])
    largest = max(
        _work([row for row in rows + newcomer if row.latents.shape == shape][:most]) for shape in _shapes(rows)
    )
    largest = max(largest, _work(newcomer))
    turns = Turns()
    for waiting, calls in ((rows, taken), (rows + newcomer, 300)):
        given: Counter[tuple[int, ...]] = Counter(dict.fromkeys(_shapes(waiting), 0))
        for _ in range(calls):
            chosen = turns.next(waiting, most)
            assert len(_shapes(chosen)) == 1
            assert list(chosen) == [row for row in waiting if row.latents.shape == chosen[0].latents.shape][:most]
            given[tuple(chosen[0].latents.shape)] += _work(chosen)
            # Counted from when the newcomer came, the others may be one call apart already.
            assert max(given.values()) - min(given.values()) <= 2 * largest


def _shapes(rows: Sequence[Row]) -> set[tuple[int, ...]]:
    return {tuple(row.latents.shape) for row in rows}


def test_short_visits_cannot_hold_up_a_crowd(tiny: Base) -> None:
    """Small pictures of three sizes that come and go, each for one step, and one of them is always there."""
    engine = Engine(tiny)
    crowd = [engine.submit(_square(32, seed=i, steps=9)) for i in range(4)]
    engine.step()
    sides = cycle((8, 16, 24))
    engine.submit(_square(next(sides), steps=1))
    visits = 0
    while engine.progress().keys() & set(crowd):
        engine.submit(_square(next(sides), steps=1))
        visits += 1
        engine.step()
        # A call of the crowd is worth 64 of the smallest visits.
        assert visits <= 9 * 64, "the crowd starves"


def test_a_crowd_does_not_hold_up_another_shape(tiny: Base) -> None:
    engine = Engine(tiny, max_rows=8)
    crowd = [engine.submit(_square(32, seed=i, steps=40)) for i in range(20)]
    for _ in range(5):
        engine.step()
    small = engine.submit(_square(16, steps=10))
    calls = 0
    while small in engine.progress():
        engine.step()
        calls += 1
    # One of the crowd's calls is worth 32 of these steps.
    assert calls <= 10 + 2
    assert sum(taken for ticket, (taken, _) in engine.progress().items() if ticket in crowd) >= 5 * 8
    for ticket in crowd:
        engine.cancel(ticket)
    assert engine.step() == Stepped()


@dataclass
class Watch:
    """A UNet call that counts, and that fails for whoever says a certain thing."""

    poison: Tensor | None = None
    """Text states of a row that cannot be drawn, [T, C]."""
    after: int = 0
    """Calls that go well before any fails."""
    most: float = math.inf
    """Failures after which all is well again."""
    calls: int = 0
    failed: int = 0
    largest: int = 0

    def __call__(self, unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
        self.calls += 1
        self.largest = max(self.largest, len(call.sample))
        is_due = self.calls > self.after and self.failed < self.most
        if is_due and self.poison is not None and (call.text_states == self.poison).flatten(1).all(1).any():
            self.failed += 1
            raise RuntimeError("out of luck")
        return run_unet(unet, call)


def _mixed(prompt: GuidedImagePrompt) -> list[Generation]:
    samplers: tuple[SamplerName, ...] = ("ddim", "euler_a", "dpmpp_2m", "lcm", "euler")
    return [
        Generation(
            prompt=f"person {i}",
            seed=i,
            steps=4 + i,
            sampler=sampler,
            guidance_scale=1.0 if i % 2 else 4.0,
            image_prompts=() if i % 3 else (prompt,),
        )
        for i, sampler in enumerate(samplers)
    ]


@pytest.mark.parametrize("step", range(6))
def test_rows_join_and_leave_at_any_step(tiny: Base, prompt: GuidedImagePrompt, step: int) -> None:
    *others, late = _mixed(prompt)
    engine = Engine(tiny)
    for generation in others:
        engine.submit(generation)
    rows = list(engine._active)
    for _ in range(step):
        engine.step()
    left = next(row for row in reversed(rows) if not row.is_done)
    taken = left.position
    engine.submit(late)
    rows.append(engine._active[-1])
    engine.step()
    before = engine.active_rows
    engine.cancel(left.id)
    engine.cancel(12345)
    assert left.id not in engine.progress()
    assert engine.active_rows == before - (not left.is_done)
    pictures, failures = _until_done(engine)
    assert not failures
    assert left.position == taken + 1, "nobody steps a row that left"
    for row in rows:
        if row is not left:
            assert _same(row.latents, _alone(tiny, row.generation).latents)
    finished_later = {row.id for row in rows if row is not left and len(row.plan) > step + 1}
    assert finished_later <= pictures.keys()
    assert left.id not in pictures


def test_a_row_cancelled_while_it_waits_for_the_autoencoder_leaves(tiny: Base) -> None:
    engine = Engine(tiny, decode_rows=1)
    tickets = [engine.submit(_square(SIDE_PX, seed=i, steps=1)) for i in range(3)]
    assert engine.step().pictures.keys() == {tickets[0]}
    engine.cancel(tickets[1])
    assert engine.active_rows == 1
    assert engine.step().pictures.keys() == {tickets[2]}


@pytest.mark.parametrize("cause", ["guidance", "keys", "values"])
def test_a_row_that_overflows_fails_alone(tiny: Base, prompt: GuidedImagePrompt, cause: str) -> None:
    others = _mixed(prompt)
    if cause == "guidance":
        bad = Generation(prompt="bad", seed=77, steps=6, guidance_scale=1e30, image_prompts=(prompt,))
    else:
        huge = tuple(1e38 * torch.sign(x) for x in getattr(prompt.conditional, cause))
        side = prompt.conditional._replace(**{cause: huge})  # type: ignore[arg-type]
        bad = Generation(prompt="bad", seed=77, steps=6, image_prompts=(GuidedImagePrompt(side, side),))
    together, without = Engine(tiny), Engine(tiny)
    ours = [together.submit(generation) for generation in [*others[:2], bad, *others[2:]]]
    theirs = [without.submit(generation) for generation in others]
    rows = {row.id: row for row in [*together._active, *without._active]}
    pictures, failures = _until_done(together)
    expected, _ = _until_done(without)
    assert failures.keys() == {ours.pop(2)}
    assert "picture with seed 77 ran into numbers that are none" in str(*failures.values())
    assert pictures.keys() == set(ours)
    for ticket, other in zip(ours, theirs, strict=True):
        assert _look_alike(pictures[ticket], expected[other])
    assert all(_same(row.latents, _alone(tiny, row.generation).latents) for row in rows.values() if row.id in ours)


@pytest.mark.parametrize("after", [0, 3])
def test_a_row_at_which_the_unet_fails_fails_alone(tiny: Base, prompt: GuidedImagePrompt, after: int) -> None:
    others = _mixed(prompt)
    poison = tiny.text_encoder.encode(["bad"]).states[0]
    watch = Watch(poison, after)
    engine = Engine(tiny, runner=watch)
    tickets = [engine.submit(g) for g in [*others[:3], Generation(prompt="bad", seed=77, steps=6), *others[3:]]]
    rows = list(engine._active)
    bad = rows.pop(3)
    stepped = [engine.step() for _ in range(after + 1)]
    assert stepped[-1].failures.keys() == {tickets[3]}
    error = stepped[-1].failures[tickets[3]]
    assert "picture with seed 77 could not be drawn: out of luck" in str(error)
    assert isinstance(error.__cause__, RuntimeError)
    assert bad.position == after
    # Six rows halve into 3 and 3, then 1 and 2: whoever is at fault is found by halving, not by trying each.
    assert watch.failed <= 1 + math.ceil(math.log2(6))
    assert all(row.position == min(after + 1, len(row.plan)) for row in rows)
    pictures = stepped[-1].pictures | _until_done(engine)[0]
    assert pictures.keys() == {row.id for row in rows}
    for row in rows:
        alone = _alone(tiny, row.generation)
        assert _same(row.latents, alone.latents), "no step was taken twice and no noise drawn twice"


def test_a_passing_fault_costs_nobody_a_picture(tiny: Base, prompt: GuidedImagePrompt) -> None:
    others = _mixed(prompt)
    watch = Watch(tiny.text_encoder.encode(["person 1"]).states[0], after=2, most=1)
    engine = Engine(tiny, runner=watch)
    for generation in others:
        engine.submit(generation)
    rows = list(engine._active)
    pictures, failures = _until_done(engine)
    assert watch.failed == 1
    assert not failures
    assert len(pictures) == len(others)
    assert all(_same(row.latents, _alone(tiny, row.generation).latents) for row in rows)


def test_where_every_row_fails_nobody_else_hears_of_it(tiny: Base) -> None:
    watch = Watch(tiny.text_encoder.encode(["bad"]).states[0])
    engine = Engine(tiny, runner=watch)
    tickets = [engine.submit(Generation(prompt="bad", seed=seed, steps=3)) for seed in range(3)]
    elsewhere = engine.submit(Generation(prompt="good", steps=1, width=2 * SIDE_PX))
    pictures, failures = _until_done(engine)
    assert (set(failures), set(pictures)) == (set(tickets), {elsewhere})
    assert all("out of luck" in str(failure) for failure in failures.values())
    with pytest.raises(GenerationError, match="out of luck"):
        Engine(tiny, runner=Watch(watch.poison)).generate([Generation(prompt="bad"), Generation(prompt="good")])


def test_pictures_are_decoded_a_few_at_a_time_while_others_are_stepped(tiny: Base) -> None:
    engine = Engine(tiny, decode_rows=2)
    short = [engine.submit(Generation(prompt="", seed=i, steps=2)) for i in range(5)]
    long = engine.submit(Generation(prompt="", seed=9, steps=8))
    came: dict[int, set[int]] = defaultdict(set)
    for call in range(1, 9):
        pictures = engine.step().pictures
        came[call] = set(pictures)
        if call < 8:
            assert engine.progress()[long] == (call, 8), "a row under way waits for nobody's picture"
        assert engine.active_rows == 6 - sum(map(len, came.values()))
    # In the order in which they joined, two a step from the step on with which they are done.
    assert [came[call] for call in range(1, 9)] == [
        set(),
        set(short[:2]),
        set(short[2:4]),
        {short[4]},
        *[set()] * 3,
        {long},
    ]


@settings(max_examples=15, deadline=None, derandomize=True, database=None)
@given(steps=st.lists(st.integers(1, 4), min_size=1, max_size=7), decode_rows=st.integers(1, 3))
def test_a_finished_picture_waits_only_for_those_before_it(tiny: Base, steps: list[int], decode_rows: int) -> None:
    engine = Engine(tiny, decode_rows=decode_rows)
    tickets = {engine.submit(_square(8 * (1 + i % 2), steps=n)): n for i, n in enumerate(steps)}
    done: list[int] = []
    calls = 0
    while engine.active_rows:
        waiting = len(engine._undecoded)
        pictures = engine.step().pictures
        calls += 1
        assert len(pictures) <= decode_rows
        assert pictures or not waiting, "somebody waited and nobody was served"
        done += pictures
    assert sorted(done) == sorted(tickets)
    assert calls <= sum(steps) + len(steps)


@pytest.mark.parametrize("most", [1, 3, 16])
def test_calls_have_at_most_so_many_rows(tiny: Base, most: int) -> None:
    watch = Watch()
    engine = Engine(tiny, max_rows=most, runner=watch)
    for seed in range(7):
        engine.submit(Generation(prompt="", seed=seed, steps=2))
    pictures, _ = _until_done(engine)
    assert len(pictures) == 7
    assert watch.largest == 2 * min(most, 7)
    assert watch.calls == 2 * math.ceil(7 / most)


def test_prompts_are_encoded_once(tiny: Base) -> None:
    engine = Engine(tiny)
    engine.submit(Generation(prompt="a man", negative_prompt="blurry"))
    first = engine.text_cache
    assert (first.hits, first.misses, first.entries) == (0, 2, 2)
    assert 0 < first.size_bytes <= first.limit_bytes
    engine.submit(Generation(prompt="a man", negative_prompt="blurry", seed=2))
    engine.submit(Generation(prompt="blurry", negative_prompt="a woman", seed=3, guidance_scale=1.0))
    again = engine.text_cache
    assert (again.hits, again.misses, again.entries) == (3, 2, 2), "an unguided row needs no negative prompt"
    assert again.size_bytes == first.size_bytes


def test_progress_counts_the_steps_that_are_really_taken(tiny: Base) -> None:
    image = Image.new("RGB", (SIDE_PX, SIDE_PX), (90, 120, 40))
    engine = Engine(tiny)
    shares = {1.0: 10, 0.75: 7, 0.5: 5, 0.1: 1}
    tickets = {
        engine.submit(Generation(prompt="", steps=10, init_image=image, strength=strength)): taken
        for strength, taken in shares.items()
    }
    whole = engine.submit(Generation(prompt="", steps=10, strength=0.1))
    tickets[whole] = 10
    assert engine.progress() == {ticket: (0, taken) for ticket, taken in tickets.items()}
    left = sum(tickets.values())
    for call in range(1, 11):
        assert engine.pending_row_steps == left
        engine.step()
        left -= sum(taken >= call for taken in tickets.values())
        for ticket, (position, total) in engine.progress().items():
            assert (position, total) == (min(call, tickets[ticket]), tickets[ticket])
    assert engine.pending_row_steps == engine.active_rows == 0
    assert engine.progress() == {}


def test_a_picture_that_is_finite_in_latents_alone_fails_too(tiny: Base) -> None:
    """Latents of 4e21 are numbers; what the autoencoder makes of them is not, and was a black picture."""
    engine = Engine(tiny)
    ticket = engine.submit(Generation(prompt="x", steps=1, guidance_scale=1e25))
    other = engine.submit(Generation(prompt="x", steps=1))
    pictures, failures = _until_done(engine)
    assert (set(pictures), set(failures)) == ({other}, {ticket})
    assert "ran into numbers that are none" in str(failures[ticket])


def test_a_picture_that_cannot_be_decoded_fails_alone(tiny: Base, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Engine(tiny)
    tickets = [engine.submit(Generation(prompt="x", seed=seed, steps=1)) for seed in range(3)]
    engine._active[1].latents = engine._active[1].latents * 1e3
    decode = type(tiny).decode_pixels

    def failing(base: Base, latents: Tensor) -> Tensor:
        if latents.abs().max() > 100:
            raise RuntimeError("out of memory")
        return decode(base, latents)

    monkeypatch.setattr(type(tiny), "decode_pixels", failing)
    pictures, failures = _until_done(engine)
    assert (set(pictures), set(failures)) == ({tickets[0], tickets[2]}, {tickets[1]})
    assert "could not be drawn: out of memory" in str(failures[tickets[1]])


def test_generate_leaves_the_pictures_of_others_alone(tiny: Base) -> None:
    engine = Engine(tiny)
    engine.submit(Generation(prompt="x", steps=1))
    with pytest.raises(RequestError, match="1 pictures are under way here; step them to their end, or use an engine"):
        engine.generate([Generation(prompt="y", steps=1)])
    assert len(engine.step().pictures) == 1


@pytest.mark.parametrize("seed", [-1, 2**64])
def test_seeds_that_no_generator_takes_are_refused(tiny: Base, seed: int) -> None:
    with pytest.raises(RequestError, match="is outside"):
        Engine(tiny).submit(Generation(prompt="x", seed=seed))


def test_what_fails_after_the_unet_is_tried_again_with_the_same_noise(
    tiny: Base, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fault that passes, in the middle of the update: no generator has moved on, and no row has stepped alone."""
    generations = [Generation(prompt="x", seed=seed, steps=3, sampler="euler_a") for seed in range(2)]
    expected = [_alone(tiny, generation).latents for generation in generations]
    engine = Engine(tiny)
    tickets = [engine.submit(generation) for generation in generations]
    rows = list(engine._active)
    arrived, calls = Row.arrived, iter(range(100))

    def failing(row: Row, latents: Tensor) -> Tensor:
        if next(calls) == 1:
            raise RuntimeError("once")
        return arrived(row, latents)

    monkeypatch.setattr(Row, "arrived", failing)
    pictures, failures = _until_done(engine)
    assert (set(pictures), failures) == (set(tickets), {})
    for row, latents in zip(rows, expected, strict=True):
        assert _same(row.latents, latents)


def test_a_failed_call_holds_no_memory_while_it_is_tried_again(tiny: Base) -> None:
    alive: list[ref[Tensor]] = []

    def failing(unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
        assert not any(one() is not None for one in alive), "the tensors of the call before are still there"
        large = torch.zeros(10)
        alive.append(ref(large))
        if len(call.sample) > 2:
            raise RuntimeError("out of memory")
        return run_unet(unet, call)

    engine = Engine(tiny, runner=failing)
    tickets = [engine.submit(Generation(prompt="x", seed=seed, steps=1)) for seed in range(4)]
    pictures, failures = _until_done(engine)
    assert (set(pictures), failures) == (set(tickets), {})
