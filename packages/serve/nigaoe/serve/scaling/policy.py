"""How many replicas: as many as clear the work that will be waiting once a new one could help.

A queue of requests says little where one asks for 4 steps and another for 800. Work is counted in row-steps (steps
still to take, of every picture), and a replica's speed in row-steps a second, as measured. Nothing of Ray here.
"""

import math
from dataclasses import dataclass, replace

FULL = 0.85
"""Share of its speed to which a replica is planned, so that chance does not fill the queue."""
EASY = 0.75
"""Those that remain must be busy no more than this before a replica is given up."""
SLOWEST = 1e-3
"""Row-steps a second; what is slower was not measured."""
RATE_HALF_LIFE_S = 600.0
"""How fast the best speed seen is forgotten. A replica that is half idle is measured as slow: its batches are small."""


@dataclass(frozen=True)
class Aims:
    """What the policy works towards."""

    min_replicas: int
    max_replicas: int
    wait_s: float
    """Seconds of work that may wait at each replica."""
    cold_start_s: float
    """Seconds until a new replica draws."""
    idle_s: float
    """Seconds with less work before a replica is given up."""


@dataclass(frozen=True)
class Load:
    """What is known at one moment."""

    now_s: float
    pending_row_steps: float
    """At replicas and in the queues before them."""
    arriving_row_steps_per_s: float
    """Work that is ordered, lately."""
    row_steps_per_s: float
    """Of one replica that is at work, on average; 0: not measured."""
    current: int
    """Replicas that draw."""
    target: int
    """Those that are starting counted, those that are leaving not."""


@dataclass(frozen=True)
class Memory:
    """What the policy remembers between decisions; plain numbers, for it travels through Ray."""

    rate: float = 0.0
    """The best speed of a replica, slowly forgotten; row-steps a second."""
    seen_s: float | None = None
    """When it was last asked."""
    grown_s: float | None = None
    """When replicas were last added."""
    spare_since_s: float | None = None
    """Since when fewer would do."""
    spare_most: int = 0
    """The most that was needed since then."""


def decide(load: Load, aims: Aims, memory: Memory) -> tuple[int, Memory]:
    """The number of replicas to have now, and what to remember of this.

    Up at once, for waiting only makes it worse; down once fewer would have done for all of `idle_s`, to what was needed
    at most meanwhile.
    """
    elapsed = 0.0 if memory.seen_s is None else max(0.0, load.now_s - memory.seen_s)
    rate = max(load.row_steps_per_s, memory.rate * 0.5 ** (elapsed / RATE_HALF_LIFE_S))
    memory = replace(memory, rate=rate, seen_s=load.now_s)
    needed = _within(_needed(load, aims, memory), aims)
    if needed > load.target:
        return needed, replace(memory, grown_s=load.now_s, spare_since_s=None, spare_most=0)
    enough = _within(max(needed, _enough(load, aims, rate)), aims)
    if enough >= load.target:
        return _within(load.target, aims), replace(memory, spare_since_s=None, spare_most=0)
    since = load.now_s if memory.spare_since_s is None else memory.spare_since_s
    most = min(max(enough, memory.spare_most), load.target)
    if load.now_s - since < aims.idle_s:
        return _within(load.target, aims), replace(memory, spare_since_s=since, spare_most=most)
    return most, replace(memory, spare_since_s=None, spare_most=0)


def _needed(load: Load, aims: Aims, memory: Memory) -> int:
    """Replicas without which work waits too long."""
    if _is_idle(load, aims):
        return 0
    if memory.rate < SLOWEST:
        # Nothing measured yet: somebody has to begin.
        return max(1, load.target)
    steady = load.arriving_row_steps_per_s / (FULL * memory.rate)
    return max(1, math.ceil(steady + _left_over(load, aims, memory) / (memory.rate * aims.wait_s)))


def _left_over(load: Load, aims: Aims, memory: Memory) -> float:
    """Row-steps that will still wait when a replica that is ordered now begins to draw."""
    starting = max(0, load.target - load.current)
    until_those_s = 0.0
    if starting:
        began = load.now_s if memory.grown_s is None else memory.grown_s
        until_those_s = min(max(0.0, aims.cold_start_s - (load.now_s - began)), aims.cold_start_s)
    capacity = load.current * aims.cold_start_s + starting * (aims.cold_start_s - until_those_s)
    arriving = load.arriving_row_steps_per_s * aims.cold_start_s
    return max(0.0, load.pending_row_steps + arriving - memory.rate * capacity)


def _enough(load: Load, aims: Aims, rate: float) -> int:
    """Replicas for which everything is easy."""
    if _is_idle(load, aims):
        return 0
    if rate < SLOWEST:
        return max(1, load.target)
    busy = load.arriving_row_steps_per_s / (EASY * rate)
    waiting = load.pending_row_steps / (EASY * rate * aims.wait_s)
    return max(1, math.ceil(max(busy, waiting)))


def _is_idle(load: Load, aims: Aims) -> bool:
    # An average that decays never reaches zero.
    return load.pending_row_steps <= 0 and load.arriving_row_steps_per_s * aims.idle_s < 1


def _within(replicas: int, aims: Aims) -> int:
    return min(max(replicas, aims.min_replicas), aims.max_replicas)
