"""How far an evaluation is, as its gauges show it."""

from collections.abc import Mapping

from nigaoe.eval.running.progress import GAUGES, ProgressGauges


def test_what_was_finished_is_shown_when_it_begins_and_when_it_ends() -> None:
    shown: list[dict[str, float]] = []

    def show(values: Mapping[str, float]) -> None:
        shown.append(dict(values))

    with ProgressGauges("faces", shards=5, show=show) as gauges:
        gauges.finished(images=32, shards=2)
        gauges.finished(images=16, failed_samples=3)
    assert shown[0]["shards_total"] == 5
    assert shown[-1] == {"shards_total": 5, "shards_finished": 3, "images_finished": 48, "failed_samples": 3}
    assert shown[-1].keys() == GAUGES.keys()
