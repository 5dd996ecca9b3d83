"""DDIM (arXiv 2010.02502, eq. 12, eta = 0)."""

from diffusers import DDIMScheduler

from nigaoe.core.samplers.plan import SamplingPlan, Step, implied_x0
from nigaoe.core.samplers.schedule import NoiseSchedule


def ddim(schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
    """Timesteps are those of diffusers' scheduler of that name, from the one numbered `start`."""
    scheduler = DDIMScheduler.from_config(schedule.config)
    scheduler.set_timesteps(steps)
    ratio = schedule.num_train_timesteps // steps
    rows = []
    for t in scheduler.timesteps.tolist():
        now, then = schedule.alpha_bar_of(t), schedule.alpha_bar_of(t - ratio)
        alpha, sigma = now**0.5, (1 - now) ** 0.5
        # x_s = alpha_s x_0 + sigma_s noise, with the noise that x_t and x_0 imply.
        a = (1 - then) ** 0.5 / sigma
        p, q = implied_x0(alpha, sigma, schedule.prediction)
        rows.append(Step(p, q, a, then**0.5 - a * alpha, signal=alpha, sigma=sigma))
    return SamplingPlan(scheduler.timesteps.float()[start:], tuple(rows[start:]), 1.0)
