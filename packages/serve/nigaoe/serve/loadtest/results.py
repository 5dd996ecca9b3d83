"""What a load test found."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from pydantic import BaseModel


@dataclass(frozen=True)
class Outcome:
    """One request, to its end."""

    number: int
    kind: str
    due_s: float
    """When it was to be sent, since the beginning; waiting to be sent counts as waiting."""
    seconds: float
    images: int
    error: str | None = None
    """None: every picture came."""


class Latency(BaseModel):
    """Seconds of the requests that succeeded."""

    mean: float
    p50: float
    p95: float
    p99: float
    most: float


class Group(BaseModel):
    """Requests of one kind, or all."""

    name: str
    requests: int
    succeeded: int
    images: int
    latency: Latency | None
    """None where nothing succeeded."""
    errors: dict[str, int]


class LoadResult(BaseModel):
    """A load test, as it is written to result.json."""

    url: str
    workload: dict[str, Any]
    seconds: float
    """From the first request to the last answer."""
    requests_per_s: float
    """Of those that succeeded."""
    images_per_s: float
    total: Group
    kinds: list[Group]
    latencies: dict[str, list[tuple[float, float]]]
    """By kind: when each successful request was due, and its seconds."""


def summarised(outcomes: Sequence[Outcome], seconds: float, url: str, workload: dict[str, Any]) -> LoadResult:
    """Count and measure."""
    total = _group("all", outcomes)
    names = sorted({outcome.kind for outcome in outcomes})
    by_kind = {name: [outcome for outcome in outcomes if outcome.kind == name] for name in names}
    return LoadResult(
        url=url,
        workload=workload,
        seconds=seconds,
        requests_per_s=total.succeeded / seconds if seconds else 0.0,
        images_per_s=total.images / seconds if seconds else 0.0,
        total=total,
        kinds=[_group(name, own) for name, own in by_kind.items()],
        latencies={
            name: [(round(o.due_s, 4), round(o.seconds, 4)) for o in own if o.error is None]
            for name, own in by_kind.items()
        },
    )


def percentile(values: Sequence[float], share: float) -> float:
    """Linear between the two nearest ranks, as numpy's default."""
    ordered = sorted(values)
    place = share * (len(ordered) - 1)
    low = int(place)
    high = min(low + 1, len(ordered) - 1)
    return ordered[low] + (place - low) * (ordered[high] - ordered[low])


def _group(name: str, outcomes: Sequence[Outcome]) -> Group:
    seconds = [outcome.seconds for outcome in outcomes if outcome.error is None]
    latency = None
    if seconds:
        p50, p95, p99 = (percentile(seconds, share) for share in (0.5, 0.95, 0.99))
        latency = Latency(mean=sum(seconds) / len(seconds), p50=p50, p95=p95, p99=p99, most=max(seconds))
    return Group(
        name=name,
        requests=len(outcomes),
        succeeded=len(seconds),
        images=sum(outcome.images for outcome in outcomes if outcome.error is None),
        latency=latency,
        errors=dict(Counter(outcome.error for outcome in outcomes if outcome.error is not None)),
    )
