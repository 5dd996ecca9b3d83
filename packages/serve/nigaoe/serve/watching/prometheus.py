"""Figures of a server without Ray's own agent: kept in this process and shown at `/metrics`."""

from collections.abc import Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from nigaoe.serve.watching.instruments import ALL, Metric

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class PrometheusMeter:
    """A `Meter` with a registry of its own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._series: dict[str, Counter | Gauge | Histogram] = {m.name: self._series_of(m) for m in ALL}

    def add(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        series = self._series[metric.name]
        assert isinstance(series, Counter)
        (series.labels(**tags) if metric.tags else series).inc(value)

    def set(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        series = self._series[metric.name]
        assert isinstance(series, Gauge)
        (series.labels(**tags) if metric.tags else series).set(value)

    def observe(self, metric: Metric, value: float, tags: Mapping[str, str]) -> None:
        series = self._series[metric.name]
        assert isinstance(series, Histogram)
        (series.labels(**tags) if metric.tags else series).observe(value)

    def exposition(self) -> bytes:
        """All figures in the text format that Prometheus reads."""
        return generate_latest(self.registry)

    def _series_of(self, metric: Metric) -> Counter | Gauge | Histogram:
        if metric.kind == "histogram":
            return Histogram(metric.name, metric.help, metric.tags, registry=self.registry, buckets=metric.buckets)
        kind = Counter if metric.kind == "counter" else Gauge
        return kind(metric.name, metric.help, metric.tags, registry=self.registry)
