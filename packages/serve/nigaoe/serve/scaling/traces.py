"""A day of requests, made up but repeatable: slow tides, sudden bursts, short and long orders mixed."""

import math
import random
from dataclasses import dataclass

DAY_S = 86_400.0


@dataclass(frozen=True)
class Arrival:
    """One order: its pictures are steps of one row each."""

    at_s: float
    rows: int
    steps: int


@dataclass(frozen=True)
class Day:
    """What comes when."""

    mean_per_s: float = 0.7
    """Orders a second, averaged over the tide."""
    tide: float = 0.9
    """How much less comes at night; 1: nothing at its depth."""
    bursts: int = 10
    burst_s: float = 180.0
    burst_times: float = 4.0
    """How many times what comes then otherwise."""
    seed: int = 0


STEPS = ((4, 0.25), (20, 0.35), (50, 0.3), (150, 0.1))
"""Few-step previews to long refinements, and their shares."""
ROWS = ((1, 0.7), (2, 0.15), (4, 0.15))


def day_of_arrivals(day: Day) -> list[Arrival]:
    """Draw a day's orders, a Poisson process whose rate changes (by thinning, Lewis & Shedler 1979)."""
    chance = random.Random(day.seed)
    bursts = sorted(chance.uniform(0, DAY_S - day.burst_s) for _ in range(day.bursts))
    peak = day.mean_per_s * (1 + day.tide) * day.burst_times
    arrivals: list[Arrival] = []
    at_s = 0.0
    while True:
        at_s += chance.expovariate(peak)
        if at_s >= DAY_S:
            return arrivals
        rate = day.mean_per_s * (1 - day.tide * math.cos(2 * math.pi * at_s / DAY_S))
        if any(begin <= at_s < begin + day.burst_s for begin in bursts):
            rate *= day.burst_times
        if chance.random() * peak < rate:
            arrivals.append(Arrival(at_s, _one_of(ROWS, chance), _one_of(STEPS, chance)))


def _one_of(shares: tuple[tuple[int, float], ...], chance: random.Random) -> int:
    values, weights = zip(*shares, strict=True)
    return int(chance.choices(values, weights)[0])
