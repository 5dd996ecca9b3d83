"""Timesteps are drawn as often as their weights say."""

import pytest
import torch

from nigaoe.core.samplers.timestep_bias import draw_timesteps, timestep_weights


def test_without_a_bias_every_timestep_is_as_likely() -> None:
    assert torch.equal(timestep_weights(1000), torch.full((1000,), 0.001))


@pytest.mark.parametrize(("strategy", "first"), [("later", 750), ("earlier", 0)])
def test_a_biased_quarter_is_drawn_as_often_as_asked(strategy: str, first: int) -> None:
    weights = timestep_weights(1000, strategy, 3.0, 0.25)  # type: ignore[arg-type]
    assert weights.sum() == pytest.approx(1.0)
    drawn = draw_timesteps(weights, 200_000, torch.Generator().manual_seed(0))
    inside = ((drawn >= first) & (drawn < first + 250)).float().mean()
    # Three times a quarter against once three quarters: a half. The tolerance is five standard deviations.
    assert inside == pytest.approx(0.5, abs=0.006)
    assert 0 <= int(drawn.min()) < int(drawn.max()) < 1000


def test_the_generator_alone_decides() -> None:
    weights = timestep_weights(1000, "later", 3.0)
    a, b = (draw_timesteps(weights, 64, torch.Generator().manual_seed(4)) for _ in range(2))
    assert torch.equal(a, b)
