"""Euler and Euler ancestral (Karras et al., arXiv 2206.00364, alg. 1; k-diffusion), x_t = x_0 + sigma noise."""

from diffusers import EulerAncestralDiscreteScheduler, EulerDiscreteScheduler

from nigaoe.core.samplers.plan import SamplingPlan, Step
from nigaoe.core.samplers.schedule import NoiseSchedule, Prediction


def euler(schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
    """Sigmas are those of diffusers' scheduler of that name, from the one numbered `start`."""
    scheduler = EulerDiscreteScheduler.from_config(schedule.config)
    scheduler.set_timesteps(steps)
    return _plan(scheduler, schedule.prediction, start, ancestral=False)


def euler_ancestral(schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
    """As `euler`, but each step goes down further and adds fresh noise of the request's own."""
    scheduler = EulerAncestralDiscreteScheduler.from_config(schedule.config)
    scheduler.set_timesteps(steps)
    return _plan(scheduler, schedule.prediction, start, ancestral=True)


def _plan(
    scheduler: EulerDiscreteScheduler | EulerAncestralDiscreteScheduler,
    prediction: Prediction,
    start: int,
    *,
    ancestral: bool,
) -> SamplingPlan:
    sigmas = scheduler.sigmas.double().tolist()
    rows = []
    for sigma, after in zip(sigmas[:-1], sigmas[1:], strict=True):
        fresh = (after**2 * (sigma**2 - after**2) / sigma**2) ** 0.5 if ancestral else 0.0
        down = (after**2 - fresh**2) ** 0.5
        p, q = _implied_x0(sigma, prediction)
        scale = (sigma**2 + 1) ** -0.5
        rows.append(Step(p, q, down / sigma, 1 - down / sigma, n=fresh, scale=scale, sigma=sigma))
    return SamplingPlan(scheduler.timesteps.float()[start:], tuple(rows[start:]), float(scheduler.init_noise_sigma))


def _implied_x0(sigma: float, prediction: Prediction) -> tuple[float, float]:
    if prediction == "epsilon":
        return 1.0, -sigma
    if prediction == "sample":
        return 0.0, 1.0
    return 1 / (sigma**2 + 1), -sigma * (sigma**2 + 1) ** -0.5
