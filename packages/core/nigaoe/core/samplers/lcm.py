"""Latent consistency models (arXiv 2310.04378, alg. 3), for distilled bases: jump to x_0, add fresh noise, repeat."""

from diffusers import LCMScheduler

from nigaoe.core.errors import RequestError
from nigaoe.core.samplers.plan import SamplingPlan, Step, implied_x0
from nigaoe.core.samplers.schedule import NoiseSchedule


def lcm(schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
    """Timesteps are those of diffusers' scheduler of that name, from the one numbered `start`.

    Raises:
        RequestError: More steps than the model was distilled for.
    """
    scheduler = LCMScheduler.from_config(schedule.config)
    most = int(scheduler.config.original_inference_steps)
    if steps > most:
        raise RequestError(f"steps {steps} is more than sampler 'lcm' has ({most}); choose a smaller number")
    scheduler.set_timesteps(steps)
    timesteps = scheduler.timesteps.tolist()
    rows = []
    for i, t in enumerate(timesteps):
        now = schedule.alpha_bar_of(t)
        signal, sigma = now**0.5, (1 - now) ** 0.5
        p, q = implied_x0(signal, sigma, schedule.prediction)
        c_skip, c_out = scheduler.get_scalings_for_boundary_condition_discrete(t)
        if i == len(timesteps) - 1:
            rows.append(Step(p, q, c_skip, c_out, signal=signal, sigma=sigma))
            continue
        then = schedule.alpha_bar_of(timesteps[i + 1])
        a, b, fresh = then**0.5 * c_skip, then**0.5 * c_out, (1 - then) ** 0.5
        rows.append(Step(p, q, a, b, n=fresh, signal=signal, sigma=sigma))
    return SamplingPlan(scheduler.timesteps.float()[start:], tuple(rows[start:]), 1.0)
