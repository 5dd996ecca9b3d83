"""How far an evaluation is, for Prometheus: Ray's agent shows it as `ray_nigaoe_eval_...`."""

from collections.abc import Callable, Mapping

from ray.util.metrics import Gauge

from nigaoe.core.repeating import Repeating

EVERY_S = 5.0
"""Ray forgets a gauge that was not set for 20 s, and what stands still must be seen to stand."""
PREFIX = "nigaoe_eval_"
GAUGES = {
    "shards_total": "Shards that the evaluation consists of.",
    "shards_finished": "Shards whose results are stored, those of an earlier run of it included.",
    "images_finished": "Pictures in these.",
    "failed_samples": "Samples in these of which there is no picture or no score.",
}


class ProgressGauges:
    """Four gauges of one evaluation, in the process that hands out its shards, shown from `with` to its end."""

    def __init__(self, evaluation: str, shards: int, show: Callable[[Mapping[str, float]], None] | None = None) -> None:
        """`show`: in the place of Ray's gauges, for which the process must be connected to Ray."""
        self._shards, self._finished, self._images, self._failed = shards, 0, 0, 0
        self._show = ray_gauges(evaluation) if show is None else show
        self._repeating = Repeating(lambda: self._show(self.values()), EVERY_S)

    def __enter__(self) -> "ProgressGauges":
        self._repeating.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._repeating.__exit__(*error)

    def finished(self, images: int, failed_samples: int = 0, shards: int = 1) -> None:
        """Shards were stored, or found stored, with so many pictures and failures in all of them."""
        self._finished += shards
        self._images += images
        self._failed += failed_samples

    def values(self) -> dict[str, float]:
        """As the gauges show them."""
        return {
            "shards_total": float(self._shards),
            "shards_finished": float(self._finished),
            "images_finished": float(self._images),
            "failed_samples": float(self._failed),
        }


def ray_gauges(evaluation: str) -> Callable[[Mapping[str, float]], None]:
    """Gauges of this process, which must be connected to Ray; returns what sets them."""
    gauges = {name: Gauge(PREFIX + name, text, ("evaluation",)) for name, text in GAUGES.items()}

    def show(values: Mapping[str, float]) -> None:
        for name, value in values.items():
            gauges[name].set(value, {"evaluation": evaluation})

    return show
