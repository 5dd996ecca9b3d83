"""Samplers by the names that users know."""

from collections.abc import Callable
from typing import Literal

from nigaoe.core.samplers.ddim import ddim
from nigaoe.core.samplers.dpmpp_2m import dpmpp_2m, dpmpp_2m_karras
from nigaoe.core.samplers.euler import euler, euler_ancestral
from nigaoe.core.samplers.lcm import lcm
from nigaoe.core.samplers.plan import SamplingPlan
from nigaoe.core.samplers.schedule import NoiseSchedule

SamplerName = Literal["ddim", "euler", "euler_a", "dpmpp_2m", "dpmpp_2m_karras", "lcm"]

SAMPLERS: dict[SamplerName, Callable[[NoiseSchedule, int], SamplingPlan]] = {
    "ddim": ddim,
    "euler": euler,
    "euler_a": euler_ancestral,
    "dpmpp_2m": dpmpp_2m,
    "dpmpp_2m_karras": dpmpp_2m_karras,
    "lcm": lcm,
}
