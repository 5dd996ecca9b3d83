"""What known GPUs can do at most: the denominator of "model FLOPs utilisation", and how much memory they have."""

import re
from dataclasses import dataclass, replace

import torch

from nigaoe.core.errors import ConfigError

GIB = 2**30


@dataclass(frozen=True)
class Device:
    """One GPU of a kind, after its maker's data sheet."""

    name: str
    half_tflops: float
    """Dense tensor-core peak in bfloat16 with float32 sums, without sparsity; float16 where there is no bfloat16."""
    float32_tflops: float
    """Peak of ordinary float32, without tensor cores."""
    memory_gib: float
    """What torch sees of it."""

    @property
    def memory_bytes(self) -> int:
        """The same in bytes."""
        return int(self.memory_gib * GIB)

    def tflops(self, precision: str) -> float:
        """Peak in a precision of the config."""
        return self.float32_tflops if precision == "float32" else self.half_tflops


# NVIDIA's data sheets of each; for GeForce the whitepapers of Ada (table 2) and GA102 (table 5).
DEVICES = (
    Device("B200", 2250, 75, 178),
    Device("H200", 989, 67, 139.8),
    Device("H100 NVL", 835, 60, 93),
    Device("H100 PCIe", 756, 51, 79),
    Device("H100", 989, 67, 79),
    Device("A100", 312, 19.5, 79),
    Device("L40S", 362, 91.6, 44),
    Device("L4", 121, 30.3, 22),
    Device("A10", 125, 31.2, 22),
    Device("V100", 125, 15.7, 31.7),
    Device("T4", 65, 8.1, 14.5),
    Device("RTX 4090", 165, 82.6, 23.5),
    Device("RTX 3090", 71, 35.6, 23.5),
    Device("RTX A6000", 155, 38.7, 47),
)
"""Longer names before those that they contain."""


def find_device(name: str) -> Device | None:
    """The device that a name means: `h100`, `4090`, or what torch says, such as `NVIDIA A100-SXM4-80GB`."""
    said = set(re.split(r"[^a-z0-9]+", name.lower()))
    if "laptop" in said:
        # Sold under the names of others, with half of their cores.
        return None
    return next((device for device in DEVICES if set(device.name.lower().split()) - {"rtx"} <= said), None)


def known_device(name: str) -> Device:
    """The device that somebody names.

    Raises:
        ConfigError: Nobody knows it.
    """
    device = find_device(name)
    if device is None:
        known = ", ".join(one.name for one in DEVICES)
        raise ConfigError(f"no figures are known of device {name!r}; choose one of {known}")
    return device


def visible_device() -> Device | None:
    """The first GPU that torch sees, with its memory; None: there is none, or nobody knows it."""
    if not torch.cuda.is_available():
        return None
    seen = torch.cuda.get_device_properties(0)
    device = find_device(seen.name)
    return None if device is None else replace(device, memory_gib=seen.total_memory / GIB)
