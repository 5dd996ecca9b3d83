"""The policies that a simulated day compares: ours, and Ray's own, as in ray/serve/autoscaling_policy.py."""

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from nigaoe.serve.scaling.policy import Aims, Load, Memory, decide
from nigaoe.serve.scaling.simulated import Device

TICK_S = 1.0
"""How often a policy is asked."""


@dataclass(frozen=True)
class World:
    """What both policies live in."""

    device: Device = Device()
    min_replicas: int = 1
    max_replicas: int = 16
    cold_start_s: float = 60.0
    max_ongoing: int = 64
    """Orders inside a replica."""
    max_queued: int = 256
    """Orders outside; one more is refused."""


@dataclass(frozen=True)
class Sight:
    """What a policy is shown."""

    now_s: float
    ongoing: int
    """Orders, those in the queue counted."""
    queued: int
    """Of these, outside the replicas."""
    pending_row_steps: float
    """At the replicas."""
    arriving_row_steps_per_s: float
    row_steps_per_order: float
    row_steps_per_s: float
    """Of a replica at work."""
    current: int
    target: int


Policy = Callable[[Sight], int]


def work_policy(world: World, wait_s: float = 10.0, idle_s: float = 300.0) -> Policy:
    """Ours."""
    aims = Aims(world.min_replicas, world.max_replicas, wait_s, world.cold_start_s, idle_s)
    memory = Memory()

    def decided(sight: Sight) -> int:
        nonlocal memory
        pending = sight.pending_row_steps + sight.queued * sight.row_steps_per_order
        rate = sight.row_steps_per_s
        load = Load(sight.now_s, pending, sight.arriving_row_steps_per_s, rate, sight.current, sight.target)
        wanted, memory = decide(load, aims, memory)
        return wanted

    return decided


def queue_length_policy(world: World, target_ongoing_requests: float) -> Policy:
    """Ray's."""
    recent: deque[int] = deque(maxlen=round(30.0 / TICK_S))
    since: dict[int, float] = {}

    def decided(sight: Sight) -> int:
        recent.append(sight.ongoing)
        ongoing = sum(recent) / len(recent)
        if sight.current == 0:
            return max(1, sight.target) if sight.ongoing else sight.target
        wanted = min(max(math.ceil(ongoing / target_ongoing_requests), world.min_replicas), world.max_replicas)
        direction = (wanted > sight.target) - (wanted < sight.target)
        begun = since.get(direction, sight.now_s)
        since.clear()
        delay_s = {1: 30.0, -1: 600.0, 0: 0.0}[direction]
        if direction and sight.now_s - begun < delay_s:
            since[direction] = begun
            return sight.target
        return wanted

    return decided
