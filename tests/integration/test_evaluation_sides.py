"""What the benchmark of evaluations compares says the same on both sides, be the references known or not."""

from pathlib import Path

import pytest

from benchmarks.eval import Runs, are_equal, costs_of, gaps, kernel_gap
from evaluation_sides import (
    MINIATURE,
    VIT_MINIATURE,
    ClassToken,
    Ours,
    Tools,
    WorkerHere,
    write_clip,
    write_people,
    write_vit,
)
from nigaoe.eval.running.plan import make_plan

N = 18


@pytest.mark.parametrize("kind", [pytest.param("efficientnet", marks=pytest.mark.slow), "vit"])
def test_both_sides_find_the_same(kind: str, tmp_path: Path) -> None:
    people, clip = write_people(tmp_path / "people", N, side_px=64), write_clip(MINIATURE, tmp_path / "clip")
    runs, tools = Runs(Ours(people, clip), tmp_path / "runs"), Tools(people, clip)
    if kind == "vit":
        vit = write_vit(VIT_MINIATURE, tmp_path / "vit_tiny")
        runs, tools = Runs(Ours(people, clip, f"dino:{vit}"), tmp_path / "runs"), Tools(people, clip, ClassToken(vit))
    cache = tmp_path / "cache"
    cold, warm = (WorkerHere(make_plan(runs.ours.config(tmp_path / "out", cache, fakes))) for fakes in (0, 1))
    runs.findings = cold.findings()
    first, theirs = runs.ours.run(cold, runs.findings, tmp_path / "first", cache), tools.run()
    assert are_equal(gaps(first, theirs)), gaps(first, theirs)
    assert kernel_gap(tools, first, 0) < 1e-4
    costs = costs_of(tools, repeats=1)
    assert costs.tools(N) > costs.ours(N, 2) > costs.ours(N, 1) > 0
    stored = sorted(path.name for path in cache.rglob("*.npz"))
    second, others = runs.warm(warm, cache), tools.run(1)
    assert are_equal(gaps(second, others)), gaps(second, others)
    # Other fakes have other figures, and no reference was looked at again.
    assert not are_equal(gaps(first, others))
    assert sorted(path.name for path in cache.rglob("*.npz")) == stored
    assert runs.cold(cold) == first
