"""DPM-Solver++ 2M, the multistep solver of second order (arXiv 2211.01095, alg. 2), with or without Karras' sigmas."""

import math

from diffusers import DPMSolverMultistepScheduler

from nigaoe.core.samplers.plan import SamplingPlan, Step, implied_x0
from nigaoe.core.samplers.schedule import NoiseSchedule

FEW_STEPS = 15
"""Below so many steps the last one is of first order, as in the authors' code."""


def dpmpp_2m(schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
    """Sigmas are those of diffusers' multistep scheduler, from the one numbered `start`."""
    return _plan(schedule, steps, start, karras=False)


def dpmpp_2m_karras(schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
    """With the spacing of sigmas of arXiv 2206.00364, eq. 5."""
    return _plan(schedule, steps, start, karras=True)


def _plan(schedule: NoiseSchedule, steps: int, start: int, *, karras: bool) -> SamplingPlan:
    scheduler = DPMSolverMultistepScheduler.from_config(
        {**schedule.config, "algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": karras}
    )
    scheduler.set_timesteps(steps)
    levels = [_alpha_sigma(sigma) for sigma in scheduler.sigmas.double().tolist()]
    count = len(scheduler.timesteps)
    rows = []
    for i in range(start, count):
        (alpha, sigma), (alpha_s, sigma_s) = levels[i], levels[i + 1]
        # exp(-h), h the step in half-log-SNR; so written it holds where sigma_s is zero.
        a, b = sigma_s / sigma, alpha_s * (1 - sigma_s * alpha / (alpha_s * sigma))
        p, q = implied_x0(alpha, sigma, schedule.prediction)
        is_last = i == count - 1
        # Of a thousand steps some do not move; from such a one there is no slope to go by either.
        before = 0.0 if i == start else _half_log_snr_step(levels[i - 1], levels[i])
        # The first step has no slope to go by.
        if before == 0 or (is_last and (sigma_s == 0 or count < FEW_STEPS)):
            rows.append(Step(p, q, a, b, signal=alpha, sigma=sigma))
            continue
        # Half of the slope between this x_0 and the one before, extrapolated over the step.
        ratio = _half_log_snr_step(levels[i], levels[i + 1]) / before
        rows.append(Step(p, q, a, b * (1 + 0.5 * ratio), c=-0.5 * b * ratio, signal=alpha, sigma=sigma))
    return SamplingPlan(scheduler.timesteps.float()[start:], tuple(rows), 1.0)


def _alpha_sigma(sigma: float) -> tuple[float, float]:
    alpha = (sigma**2 + 1) ** -0.5
    return alpha, sigma * alpha


def _half_log_snr_step(start: tuple[float, float], end: tuple[float, float]) -> float:
    return math.log(end[0] / end[1]) - math.log(start[0] / start[1])
