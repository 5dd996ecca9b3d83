"""Ray actors that take shards as they become free. Scheduling decides when a shard is done, never what it says."""

import logging
import os
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any, cast

import ray
from ray.actor import ActorHandle
from ray.exceptions import RayTaskError

from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.core.native_lines import without_native_lines
from nigaoe.eval.config import EvalConfig
from nigaoe.eval.shards import ShardResult, ShardTask
from nigaoe.eval.worker import ShardWorker, WorkerSpec

log = logging.getLogger(__name__)

_CRASHES_PER_WORKER = 3

Worker = ActorHandle[ShardWorker]


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
    """Ask for workers. Ray restarts one that dies and repeats its shard, which gives the same result."""
    gpus = spec.config.gpus_per_worker
    actor = ray.remote(ShardWorker).options(
        num_cpus=1, num_gpus=gpus, max_restarts=_CRASHES_PER_WORKER, max_task_retries=_CRASHES_PER_WORKER
    )
    return [cast(Worker, actor.remote(spec)) for _ in range(count)]


def evaluate_shards(
    workers: Sequence[Worker],
    tasks: Sequence[ShardTask],
    on_result: Callable[[ShardResult], None],
    start_timeout_s: float,
) -> None:
    """Give each worker a shard whenever it is free; results arrive in any order.

    Raises:
        NigaoeError: A worker found an input that the user can mend, or no worker could start.
    """
    waiting = deque(tasks)
    # A worker that a full cluster has not started yet gets no shard, or the run would end up waiting for it.
    busy: dict[ray.ObjectRef[Any], Worker] = {worker.ready.remote(): worker for worker in workers}
    starting, unfinished, has_started = set(busy), len(waiting), False
    while unfinished:
        done, _ = ray.wait(list(busy), num_returns=1, timeout=None if has_started else start_timeout_s)
        if not done:
            raise ConfigError(
                f"no worker started within {start_timeout_s:g} s; free CPUs or GPUs there or lower gpus_per_worker"
            )
        (ref,) = done
        worker, has_started = busy.pop(ref), True
        outcome = _outcome(ref)
        if ref not in starting:
            on_result(outcome)
            unfinished -= 1
        if waiting:
            busy[worker.evaluate.remote(waiting.popleft())] = worker


def _outcome(ref: ray.ObjectRef[Any]) -> Any:
    try:
        return ray.get(ref)
    except RayTaskError as error:
        if isinstance(error.cause, NigaoeError):
            # The cause alone: Ray's own message is the traceback of another process.
            raise error.cause from None
        raise
