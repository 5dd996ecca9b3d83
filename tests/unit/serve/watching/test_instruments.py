import threading

import pytest
from prometheus_client.parser import text_string_to_metric_families

from nigaoe.serve.orders import EngineStats, Timings
from nigaoe.serve.watching.instruments import ALL, REFUSALS, Instruments
from nigaoe.serve.watching.prometheus import PrometheusMeter


def samples(meter: PrometheusMeter) -> dict[str, float]:
    text = meter.exposition().decode()
    found = {}
    for family in text_string_to_metric_families(text):
        for sample in family.samples:
            labels = ",".join(f"{key}={value}" for key, value in sorted(sample.labels.items()))
            found[f"{sample.name}{{{labels}}}" if labels else sample.name] = sample.value
    return found


def test_names_are_ours_and_end_with_their_unit() -> None:
    units = ("_total", "_seconds", "_ratio", "_bytes", "_in_flight", "_waiting", "_row_steps", "_per_second", "_loaded")
    assert len({metric.name for metric in ALL}) == len(ALL)
    for metric in ALL:
        assert metric.name.startswith("nigaoe_")
        assert metric.name.endswith(units)
        assert (metric.kind == "counter") == metric.name.endswith("_total")
        assert bool(metric.buckets) == (metric.kind == "histogram")


def test_what_happens_is_found_in_the_exposition() -> None:
    meter = PrometheusMeter()
    instruments = Instruments(meter)
    instruments.request("/v1/generate", 200, 1.5, "alice")
    instruments.request("/v1/generate", 200, 2.5, "alice")
    instruments.images("toy/anime", None, 4)
    instruments.images("toy/anime", "face", 1)
    instruments.refused("late")
    instruments.retried()
    instruments.drawn(Timings(queued=0.5, encoded=0.1, stepped=2.0, decoded=0.2))
    instruments.stepped("toy/anime", {"": 2, "face": 2}, 16, 0.03)
    found = samples(meter)
    assert found["nigaoe_requests_total{caller=alice,route=/v1/generate,status=200}"] == 2
    assert found["nigaoe_request_seconds_sum{route=/v1/generate}"] == 4.0
    assert found["nigaoe_images_total{adapter=,base=toy/anime}"] == 4
    assert found["nigaoe_images_total{adapter=face,base=toy/anime}"] == 1
    assert found["nigaoe_refusals_total{kind=late}"] == 1
    assert found["nigaoe_retries_total"] == 1
    assert found["nigaoe_queue_seconds_sum"] == 0.5
    assert found["nigaoe_row_steps_total{adapter=face,base=toy/anime}"] == 2
    assert found["nigaoe_batch_occupancy_ratio_sum{base=toy/anime}"] == 0.25
    assert found["nigaoe_step_seconds_bucket{base=toy/anime,le=0.03}"] == 1


def test_totals_of_an_engine_become_counts() -> None:
    meter = PrometheusMeter()
    instruments = Instruments(meter)
    for hits, misses in [(3, 1), (10, 1), (2, 5)]:
        caches = {"prompts": (hits, misses)}
        instruments.engine(EngineStats(4, 2, 90, 31.5, 100, ("a",), ("f", "g"), 2**20, caches))
    found = samples(meter)
    # 10, and 2 more of a cache that began anew.
    assert found["nigaoe_cache_hits_total{cache=prompts}"] == 12
    assert found["nigaoe_cache_misses_total{cache=prompts}"] == 5
    assert found["nigaoe_rows_in_flight"] == 4
    assert found["nigaoe_rows_waiting"] == 2
    assert found["nigaoe_pending_row_steps"] == 90
    assert found["nigaoe_row_steps_per_second"] == 31.5
    assert found["nigaoe_adapters_loaded"] == 2
    assert found["nigaoe_weights_bytes"] == 2**20


def test_threads_lose_no_count() -> None:
    meter = PrometheusMeter()
    instruments = Instruments(meter)

    def many() -> None:
        for _ in range(500):
            instruments.stepped("a", {"": 1}, 1, 0.01)

    threads = [threading.Thread(target=many) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert samples(meter)["nigaoe_unet_calls_total{base=a}"] == 4000


def test_rare_counts_are_shown_before_anything_happens() -> None:
    meter = PrometheusMeter()
    Instruments(meter).begin()
    found = samples(meter)
    assert found["nigaoe_retries_total"] == 0
    assert [found[f"nigaoe_refusals_total{{kind={kind}}}"] for kind in ("invalid", "overloaded", "late", "failed")] == [
        0
    ] * 4


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_is_told_once_of_a_count_that_begins(monkeypatch: pytest.MonkeyPatch) -> None:
    from ray.serve.metrics import Counter

    from nigaoe.serve.watching.ray_meter import RayMeter

    steps: list[tuple[float, dict[str, str]]] = []
    monkeypatch.setattr(Counter, "inc", lambda counter, value, tags: steps.append((value, tags)))
    meter = RayMeter()
    for value in (0, 0, 1, 0):
        meter.add(REFUSALS, value, {"kind": "late"})
    meter.add(REFUSALS, 0, {"kind": "failed"})
    assert [tags["kind"] for _, tags in steps] == ["late", "late", "failed"]
    assert steps[1][0] == 1
    # Ray takes no step of 0; this one is too small to be seen in a sum.
    assert all(steps[i][0] > 0 and 1 + steps[i][0] == 1 for i in (0, 2))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_ray_takes_every_figure() -> None:
    from nigaoe.serve.watching.ray_meter import RayMeter

    meter = RayMeter()
    for metric in ALL:
        tags = {tag: "x" for tag in metric.tags}
        {"counter": meter.add, "gauge": meter.set, "histogram": meter.observe}[metric.kind](metric, 1.0, tags)
    # Ray refuses to count on by nothing; ours asks for it where nothing was found in a cache.
    Instruments(meter).engine(EngineStats(0, 0, 0, 0.0, 0, caches={"prompts": (0, 0)}))
