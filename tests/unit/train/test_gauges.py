"""What Prometheus is told of a run: where it stands, whether it moves, and which checkpoints are on their way."""

from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest
from ray.train import Checkpoint

from nigaoe.train.watching.gauges import GAUGES, GIB, RunFigures, StoredCheckpoints
from nigaoe.train.watching.tracking import StepFigures

LINE = StepFigures(
    step=30,
    loss=0.125,
    lr=1e-4,
    grad_norm=0.5,
    images_per_s=40.0,
    step_s=0.2,
    data_wait_s=0.05,
    tflops=None,
    mfu=None,
    memory_gib=2.0,
)._asdict()


def test_what_was_logged_is_shown_and_what_nobody_knows_is_not() -> None:
    figures = RunFigures(steps=100, now_s=1000.0)
    begun = figures.values()
    assert (begun["steps_planned"], begun["steps_done"], begun["last_step_timestamp_seconds"]) == (100, 0, 1000)
    assert "loss" not in begun
    figures.started(0, 2)
    figures.logged(LINE, now_s=1060.0)
    shown = figures.values()
    assert (shown["steps_done"], shown["loss"], shown["workers"], shown["starts"]) == (30, 0.125, 2, 1)
    assert shown["data_wait_ratio"] == pytest.approx(0.25)
    assert shown["memory_bytes"] == 2 * GIB
    assert shown["last_step_timestamp_seconds"] == 1060
    assert "mfu_ratio" not in shown
    figures.logged(LINE | {"mfu": 0.4}, now_s=1061.0)
    assert figures.values().keys() <= GAUGES.keys()
    figures.checkpoint_stored(30, now_s=1062.0)
    assert figures.values().keys() == GAUGES.keys()


def test_starting_again_is_no_progress() -> None:
    figures = RunFigures(steps=100, now_s=1000.0)
    figures.started(0, 2)
    figures.logged(LINE, now_s=1010.0)
    figures.started(20, 1)
    shown = figures.values()
    assert (shown["steps_done"], shown["starts"], shown["workers"]) == (20, 2, 1)
    assert shown["last_step_timestamp_seconds"] == 1010


def test_a_checkpoint_is_pending_until_it_is_stored_or_its_workers_are_lost() -> None:
    figures = RunFigures(steps=100, now_s=0.0)

    def pending() -> tuple[float, float]:
        shown = figures.values()
        return shown["checkpoints_pending"], shown["checkpoint_pending_since_seconds"]

    assert pending() == (0, 0)
    figures.checkpoint_taken(10, now_s=100.0)
    figures.checkpoint_taken(20, now_s=200.0)
    figures.checkpoint_taken(30, now_s=300.0)
    assert pending() == (3, 100)
    # What came later is there, so what came before it is too, whatever order the news arrives in.
    figures.checkpoint_stored(20, now_s=350.0)
    assert pending() == (1, 300)
    assert figures.values()["checkpoint_step"] == 20
    assert figures.values()["checkpoint_timestamp_seconds"] == 350
    figures.started(20, 2)
    assert pending() == (0, 0)


def test_the_controller_tells_of_reports_that_hold_a_checkpoint(tmp_path: Path) -> None:
    told: list[int] = []
    board = SimpleNamespace(checkpoint_stored=SimpleNamespace(remote=told.append))
    callback = StoredCheckpoints(board)
    context = cast(Any, None)
    callback.after_report(context, [{"step": 10}, {"step": 10}], None)
    callback.after_report(context, [{"step": 20}, {"step": 20}], Checkpoint.from_directory(tmp_path))
    assert told == [20]
