"""Evaluations in this process: the same worker that Ray would run, without Ray."""

from collections.abc import Callable, Sequence
from pathlib import Path

from nigaoe.core.reports import Report
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.job import run_evaluation
from nigaoe.eval.running.panel import Known
from nigaoe.eval.running.plan import Plan
from nigaoe.eval.running.shards import ShardResult, ShardTask
from nigaoe.eval.running.worker import Findings, ShardWorker, WorkerSpec


class HandsHere:
    """One worker, and how much was asked of it."""

    def __init__(self, plan: Plan) -> None:
        self.worker = ShardWorker(WorkerSpec(plan.config, plan.adapters, Path.cwd(), "cpu"))
        self.done: list[str] = []

    def check(self) -> Findings:
        return self.worker.check()

    def evaluate(
        self,
        tasks: Sequence[ShardTask],
        known_of: Callable[[ShardTask], Known | None],
        on_result: Callable[[ShardTask, ShardResult], None],
    ) -> None:
        for task in tasks:
            self.done.append(task.id)
            on_result(task, self.worker.evaluate(task, known_of(task)))


def evaluate_here(config: EvalConfig, hands: list[HandsHere] | None = None) -> Report:
    """Run an evaluation; `hands` takes who did it."""

    def start(plan: Plan) -> HandsHere:
        one = HandsHere(plan)
        if hands is not None:
            hands.append(one)
        return one

    return run_evaluation(config, start)
