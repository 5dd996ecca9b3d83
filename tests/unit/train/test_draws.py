"""Randomness of samples: its own, and shared by nobody."""

import pytest
import torch

from nigaoe.core.samplers.timestep_bias import timestep_weights
from nigaoe.train.samples.draws import draw, sample_generator

SHAPE = (4, 8, 8)


def test_a_sample_draws_the_same_in_any_company() -> None:
    weights = timestep_weights(1000)
    together = draw(SHAPE, weights, 0.1, [sample_generator(3, i) for i in range(6)])
    for i in range(6):
        alone = draw(SHAPE, weights, 0.1, [sample_generator(3, i)])
        for whole, own in zip(together, alone, strict=True):
            assert torch.equal(whole[i : i + 1], own)
    assert not torch.equal(together.noise[0], together.noise[1])


@pytest.mark.parametrize("strategy", ["none", "later"])
def test_timesteps_are_as_frequent_as_asked(strategy: str) -> None:
    weights = timestep_weights(10, strategy, 4.0, 0.2)  # type: ignore[arg-type]
    draws = draw((1, 1, 1), weights, 0.0, [sample_generator(0, i) for i in range(20_000)])
    assert draws.timesteps.bincount(minlength=10) / 20_000 == pytest.approx(weights.numpy(), abs=0.01)


def test_an_offset_shifts_whole_channels_of_each_sample() -> None:
    weights, generators = timestep_weights(10), [sample_generator(0, i) for i in range(400)]
    shifted = draw((4, 16, 16), weights, 0.5, generators).noise.mean(dim=(2, 3))
    assert float(shifted.std()) == pytest.approx((0.5**2 + 1 / 256) ** 0.5, rel=0.1)
