"""Every sampler against diffusers' scheduler of the same name: a whole trajectory on one fixed "model"."""

from typing import Any

import pytest
import torch
from diffusers import (
    DDIMScheduler,
    DPMSolverMultistepScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    LCMScheduler,
)
from torch import Tensor

from nigaoe.core.errors import RequestError
from nigaoe.core.samplers.plan import SamplingPlan, affine_step
from nigaoe.core.samplers.registry import SAMPLERS, SamplerName
from nigaoe.core.samplers.schedule import NoiseSchedule
from tiny_worlds import SCHEDULE

THEIRS: dict[SamplerName, tuple[Any, dict[str, object]]] = {
    "ddim": (DDIMScheduler, {}),
    "euler": (EulerDiscreteScheduler, {}),
    "euler_a": (EulerAncestralDiscreteScheduler, {}),
    "dpmpp_2m": (DPMSolverMultistepScheduler, {}),
    "dpmpp_2m_karras": (DPMSolverMultistepScheduler, {"use_karras_sigmas": True}),
    "lcm": (LCMScheduler, {}),
}


def _config(prediction: str, spacing: str) -> dict[str, Any]:
    return {**SCHEDULE, "prediction_type": prediction, "timestep_spacing": spacing}


def _model(x: Tensor, t: Tensor) -> Tensor:
    """Smooth, of unit size, and different at every timestep: enough to tell two samplers apart."""
    return torch.tanh(0.7 * x + 0.3 * x.flip(-1) + t.float() / 700 - 0.6)


def _noise(seed: int, count: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(1, 4, 8, 8, generator=generator) for _ in range(count)]


def _ours(plan: SamplingPlan, seed: int) -> Tensor:
    first, *fresh = _noise(seed, len(plan) + 1)
    x, before = first * plan.initial_sigma, torch.zeros_like(first)
    for i, step in enumerate(plan.steps):
        output = _model(x * step.scale, plan.timesteps[i])
        x, before = affine_step(x, output, before, fresh[i], [step])
    return x


def _diffusers(scheduler: Any, steps: int, seed: int) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    scheduler.set_timesteps(steps)
    x = torch.randn(1, 4, 8, 8, generator=generator) * scheduler.init_noise_sigma
    for t in scheduler.timesteps:
        output = _model(scheduler.scale_model_input(x, t), t)
        kwargs = (
            {"generator": generator} if isinstance(scheduler, LCMScheduler | EulerAncestralDiscreteScheduler) else {}
        )
        x = scheduler.step(output, t, x, **kwargs).prev_sample
    final: Tensor = x
    return final


@pytest.mark.parametrize("steps", [1, 4, 30])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("prediction", ["epsilon", "v_prediction"])
@pytest.mark.parametrize("name", SAMPLERS)
def test_a_trajectory_equals_diffusers(name: SamplerName, prediction: str, spacing: str, steps: int) -> None:
    config = _config(prediction, spacing)
    kind, options = THEIRS[name]
    theirs = _diffusers(kind.from_config({**config, **options}), steps, seed=3)
    ours = _ours(SAMPLERS[name](NoiseSchedule.from_config(config), steps), seed=3)
    assert torch.isfinite(ours).all()
    assert (ours - theirs).abs().max() < 1e-4


def test_rows_of_all_samplers_share_a_step() -> None:
    schedule = NoiseSchedule.from_config(_config("epsilon", "leading"))
    steps = [SAMPLERS[name](schedule, 9).steps[2] for name in SAMPLERS]
    x, output, before, noise = (torch.cat(_noise(seed, len(steps))) for seed in range(4))
    together, _ = affine_step(x, output, before, noise, steps)
    for i, step in enumerate(steps):
        row = slice(i, i + 1)
        alone, _ = affine_step(x[row], output[row], before[row], noise[row], [step])
        assert torch.equal(alone, together[row])


def test_lcm_refuses_more_steps_than_it_was_distilled_for() -> None:
    with pytest.raises(RequestError, match="steps 51 is more than sampler 'lcm' has"):
        SAMPLERS["lcm"](NoiseSchedule.from_config(_config("epsilon", "leading")), 51)
