"""Ray actors that take shards as they become free. Scheduling decides when a shard is done, never what it says."""

import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, Protocol, Self, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayActorError, RayTaskError

from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.core.native_lines import without_native_lines
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.running.panel import Known
from nigaoe.eval.running.plan import Plan
from nigaoe.eval.running.progress import ProgressGauges
from nigaoe.eval.running.shards import ShardResult, ShardTask
from nigaoe.eval.running.worker import Findings, ShardWorker, WorkerSpec

log = logging.getLogger(__name__)

_CRASHES = 3
"""Of workers at one shard, after which it is not tried again."""

Worker = ActorHandle[ShardWorker]


class Hands(Protocol):
    """Whoever does the work of a plan."""

    def check(self) -> Findings:
        """Look at the networks before the first picture."""

    def evaluate(
        self,
        tasks: Sequence[ShardTask],
        known_of: Callable[[ShardTask], Known | None],
        on_result: Callable[[ShardTask, ShardResult], None],
    ) -> None:
        """Evaluate shards in any order and hand over each as it is finished."""


@contextmanager
def cluster(config: EvalConfig) -> Iterator[None]:
    """Be connected to Ray: as it is, to an address, or to a local cluster that ends with the block."""
    if ray.is_initialized():
        yield
        return
    address = config.ray_address or os.environ.get("RAY_ADDRESS")
    # Not no address at all: Ray would join whatever cluster was last started on this machine, be it gone or not.
    local: dict[str, Any] = {
        "address": "local",
        "num_cpus": config.workers,
        "include_dashboard": False,
        "log_to_driver": False,
    }
    with without_native_lines():
        ray.init(**({"address": address} if address else local), logging_level=logging.WARNING)
    try:
        yield
    finally:
        ray.shutdown()


def start_workers(spec: WorkerSpec, count: int) -> list[Worker]:
    """Ask for workers; one that a full cluster cannot start yet makes an autoscaler add a node."""
    gpus = spec.config.gpus_per_worker
    # Restarted as often as it dies; what it was doing is given out again by `evaluate_shards`, which counts.
    actor = ray.remote(ShardWorker).options(num_cpus=1, num_gpus=gpus, max_restarts=-1, max_task_retries=0)
    return [cast(Worker, actor.remote(spec)) for _ in range(count)]


class RayHands:
    """Workers on Ray, started when there is something to do and let go with the block."""

    def __init__(self, plan: Plan) -> None:
        # Before Ray is joined, whose jobs may change it.
        self.plan, self._folder = plan, Path.cwd()
        self._stack = ExitStack()
        self._workers: list[Worker] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        # In a cluster that goes on, actors would hold their GPUs for as long as this process lives.
        for worker in self._workers:
            ray.kill(worker)
        self._stack.close()

    def check(self) -> Findings:
        """Look at the networks before the first picture."""
        return check_with(self._started(), self.plan.config.start_timeout_s)

    def evaluate(
        self,
        tasks: Sequence[ShardTask],
        known_of: Callable[[ShardTask], Known | None],
        on_result: Callable[[ShardTask, ShardResult], None],
    ) -> None:
        """Evaluate shards in any order and hand over each as it is finished."""
        workers = self._started()
        asked = {task.id for task in tasks}
        finished = [task for task in self.plan.tasks if task.id not in asked]
        with ProgressGauges(self.plan.config.title, len(self.plan.tasks)) as gauges:
            gauges.finished(sum(task.size for task in finished), shards=len(finished))

            def keep(task: ShardTask, result: ShardResult) -> None:
                on_result(task, result)
                gauges.finished(task.size, len(result.table.failed))

            evaluate_shards(workers, tasks, known_of, keep, self.plan.config.start_timeout_s)

    def _started(self) -> list[Worker]:
        if not self._workers:
            config = self.plan.config
            device = "cuda" if config.gpus_per_worker > 0 else "cpu"
            self._stack.enter_context(cluster(config))
            self._workers = start_workers(WorkerSpec(config, self.plan.adapters, self._folder, device), config.workers)
        return self._workers


def check_with(workers: Sequence[Worker], start_timeout_s: float) -> Findings:
    """The findings of whichever worker starts first."""
    refs: dict[ray.ObjectRef[Any], Worker] = {worker.ready.remote(): worker for worker in workers}
    done, _ = ray.wait(list(refs), num_returns=1, timeout=start_timeout_s)
    if not done:
        raise _no_worker(start_timeout_s)
    for _ in range(_CRASHES):
        try:
            return cast(Findings, _outcome(refs[done[0]].check.remote()))
        except RayActorError as error:
            log.warning("a worker died while it was checking", extra={"reason": str(error).splitlines()[0]})
    raise NigaoeError(f"workers died {_CRASHES} times while they were checking; look at their memory")


def evaluate_shards(
    workers: Sequence[Worker],
    tasks: Sequence[ShardTask],
    known_of: Callable[[ShardTask], Known | None],
    on_result: Callable[[ShardTask, ShardResult], None],
    start_timeout_s: float,
) -> None:
    """Give each worker a shard whenever it is free; results arrive in any order.

    Raises:
        NigaoeError: A worker found an input that the user can mend, no worker could start, or one shard kills workers.
    """
    waiting, crashes, unfinished = deque(tasks), Counter[str](), len(tasks)
    # A worker that a full cluster has not started yet gets no shard, or the run would end up waiting for it.
    busy: dict[ray.ObjectRef[Any], tuple[Worker, ShardTask | None]] = {
        worker.ready.remote(): (worker, None) for worker in workers
    }
    has_started = False
    while unfinished:
        done, _ = ray.wait(list(busy), num_returns=1, timeout=None if has_started else start_timeout_s)
        if not done:
            raise _no_worker(start_timeout_s)
        worker, task = busy.pop(done[0])
        try:
            outcome = _outcome(done[0])
        except RayActorError as error:
            if task is not None:
                crashes[task.id] += 1
                if crashes[task.id] > _CRASHES:
                    raise NigaoeError(
                        f"shard {task.id!r} killed {crashes[task.id]} workers, the last one so: "
                        f"{str(error).splitlines()[0]}; lower max_rows or give workers more memory"
                    ) from None
                waiting.appendleft(task)
            busy[worker.ready.remote()] = (worker, None)
            continue
        has_started = True
        if task is not None:
            on_result(task, outcome)
            unfinished -= 1
        if waiting:
            following = waiting.popleft()
            busy[worker.evaluate.remote(following, known_of(following))] = (worker, following)


def _no_worker(start_timeout_s: float) -> ConfigError:
    return ConfigError(
        f"no worker started within {start_timeout_s:g} s; free CPUs or GPUs there or lower gpus_per_worker"
    )


def _outcome(ref: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, NigaoeError):
            # The cause alone: Ray's own message is the traceback of another process.
            raise error.cause from None
        raise
