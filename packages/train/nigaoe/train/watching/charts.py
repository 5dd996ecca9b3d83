"""Which curves a run's page shows."""

from collections.abc import Iterable, Sequence

from nigaoe.train.watching import curves
from nigaoe.train.watching.curves import Chart, Points, Series, chart, smoothed
from nigaoe.train.watching.history import RunHistory, ValidationResult


def chart_groups(history: RunHistory, validations: Sequence[ValidationResult]) -> list[tuple[str, list[Chart]]]:
    """Titles of sections, and their curves; empty where nothing was measured."""
    marks = history.restarts

    def noisy(title: str, points: Points, unit: str, from_zero: bool = True) -> Chart | None:
        return chart(title, _raw_and_smoothed(points), marks, unit=unit, from_zero=from_zero)

    def of(key: str, factor: float = 1.0) -> Points:
        return points_of(history, key, factor)

    learning = [
        noisy("Training loss", of("loss"), "mean squared error", from_zero=False),
        chart("Learning rate", [Series("learning rate", of("lr"))], marks, from_zero=True),
        noisy("Gradient norm", of("grad_norm"), "before clipping"),
    ]
    speed = [
        noisy("Images per second", of("images_per_s"), "all workers"),
        noisy("Step time", of("step_s", 1000), "ms"),
        noisy("Waiting for data", waiting_for_data(history), "% of the time"),
        noisy("MFU", of("mfu", 100), "% of what the device can compute"),
        noisy("Compute", of("tflops"), "TFLOP/s per worker"),
        noisy("Memory", of("memory_gib"), "GiB, highest"),
    ]
    return [
        ("Learning", _present(learning)),
        ("Validation on held-out pictures", _present(_validation_charts(validations, marks))),
        ("Speed", _present(speed)),
    ]


def _validation_charts(validations: Sequence[ValidationResult], marks: Sequence[int]) -> list[Chart | None]:
    def of(key: str, label: str, factor: float = 1.0, kind: curves.Kind = "plain") -> Series:
        return Series(label, [(r.step, factor * r.metrics[key]) for r in validations if key in r.metrics], kind)

    bands = sorted({key for result in validations for key in result.metrics if key.startswith("loss_t")})
    named = [
        (key, "t " + "\N{EN DASH}".join(str(int(t)) for t in key.removeprefix("loss_t").split("_"))) for key in bands
    ]

    def people(title: str, key: str, unit: str) -> Chart | None:
        series = [of(key, "own reference"), of(f"{key}_shuffled", "wrong person", kind="dashed")]
        return chart(title, series, marks, unit=unit)

    encoder = validations[-1].image_encoder if validations else ""
    faces = (validations[-1].face_encoder if validations else None) or ""
    return [
        chart("Validation loss", [of("validation_loss", "mean of all bands")], marks, unit="mean squared error"),
        chart("Loss by timestep", [of(key, label) for key, label in named], marks, unit="mean squared error"),
        people("CLIP-I", "clip_i", f"cosine in {encoder}"),
        people("Identity", "identity", f"cosine in {faces}"),
        chart("Faces found", [of("faces_found", "of the pictures drawn", 100)], marks, unit="%", from_zero=True),
    ]


def _raw_and_smoothed(points: Points) -> list[Series]:
    if len(points) < curves.FEW_POINTS:
        return [Series("value", points)]
    return [Series("as it was", points, "faint"), Series("smoothed", smoothed(points))]


def points_of(history: RunHistory, key: str, factor: float = 1.0) -> list[tuple[float, float]]:
    """A figure by step."""
    # null stands for what is no number.
    return [(line["step"], factor * line[key]) for line in history.lines if line.get(key) is not None]


def waiting_for_data(history: RunHistory) -> list[tuple[float, float]]:
    """Percent of the time."""
    lines = [line for line in history.lines if line.get("data_wait_s") is not None and line.get("step_s")]
    return [(line["step"], 100 * line["data_wait_s"] / line["step_s"]) for line in lines]


def _present(charts: Iterable[Chart | None]) -> list[Chart]:
    return [one for one in charts if one is not None]


def median(values: Sequence[float]) -> float:
    """The upper of both where there are two."""
    ordered = sorted(values)
    return ordered[len(ordered) // 2]
