"""Samplers by the names that users know."""

from typing import Literal, Protocol

from nigaoe.core.samplers.ddim import ddim
from nigaoe.core.samplers.dpmpp_2m import dpmpp_2m, dpmpp_2m_karras
from nigaoe.core.samplers.euler import euler, euler_ancestral
from nigaoe.core.samplers.lcm import lcm
from nigaoe.core.samplers.plan import SamplingPlan
from nigaoe.core.samplers.schedule import NoiseSchedule

SamplerName = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "lcm"]


class Sampler(Protocol):
    """Makes plans."""

    def __call__(self, schedule: NoiseSchedule, steps: int, start: int = 0) -> SamplingPlan:
        """A plan of so many steps, of which the first `start` are left out, as image-to-image does."""


SAMPLERS: dict[SamplerName, Sampler] = {
    "ddim": ddim,
    "euler": euler,
    "euler_a": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_karras": dpmpp_2m_karras,
    "lcm": lcm,
}
