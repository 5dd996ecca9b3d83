"""Figures through Ray's agent, which shows those of all processes of a node to Prometheus, named `ray_nigaoe_...`."""

from collections.abc import Mapping
from typing import cast

from ray.serve.metrics import Counter, Gauge, Histogram

from nigaoe.serve.watching.instruments import ALL, Metric

_NOTHING = 1e-30
"""Ray takes no step of 0, and Prometheus must see a count at 0 to see it rise; 1 and this are 1."""


class RayMeter:
    """A `Meter`; Ray adds the deployment and the replica to every tag."""

    def __init__(self) -> None:
        self._counters = {m.name: Counter(m.name, m.help, _tags(m)) for m in ALL if m.kind == "counter"}
        self._gauges = {m.name: Gauge(m.name, m.help, _tags(m)) for m in ALL if m.kind == "gauge"}
        self._histograms = {
            m.name: Histogram(m.name, m.help, list(m.buckets), _tags(m)) for m in ALL if m.kind == "histogram"
        }
        self._begun: set[tuple[object, ...]] = set()

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        if value > 0:
            self._counters[metric.name].inc(value, dict(tags))
        elif (series := (metric.name, *sorted(tags.items()))) not in self._begun:
            self._begun.add(series)
            self._counters[metric.name].inc(_NOTHING, dict(tags))

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        self._gauges[metric.name].set(value, dict(tags))

    def observe(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        self._histograms[metric.name].observe(value, dict(tags))


def _tags(metric: Metric) -> tuple[str]:
    # Ray says one and means any number.
    return cast("tuple[str]", metric.tags)
