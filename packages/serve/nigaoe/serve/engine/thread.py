"""The thread that owns the device. Whoever wants pictures submits an order and hears of it; to leave, it cancels.

Rows of all orders on one base share UNet calls: an order that arrives joins before the next step.
"""

import itertools
import logging
import queue
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any, TypeVar

from nigaoe.serve.config import EngineConfig
from nigaoe.serve.engine.jobs import EngineEvent, Job, Stopped
from nigaoe.serve.engine.residency import Residency
from nigaoe.serve.engine.scheduler import Scheduler
from nigaoe.serve.orders import EngineStats, EngineStoppedError, Order, Refusal
from nigaoe.serve.watching.instruments import Instruments

log = logging.getLogger(__name__)

IDLE_S = 1.0
"""Between two heartbeats of a thread that has nothing to do."""

ResultT = TypeVar("ResultT")


@dataclass(frozen=True)
class _Cancel:
    job: Job


@dataclass(frozen=True)
class _Task:
    do: Callable[[], Any]
    future: "Future[Any]"


@dataclass(frozen=True)
class _Wake:
    """Something that was waited for is there."""


@dataclass(frozen=True)
class _End:
    """Time to end."""


class EngineThread:
    """One engine per base, stepped in turn for as long as anybody waits."""

    def __init__(self, residency: Residency, config: EngineConfig, instruments: Instruments | None = None) -> None:
        self._inbox: queue.SimpleQueue[Job | _Cancel | _Task | _Wake | _End] = queue.SimpleQueue()
        residency.on_loaded = self._wake
        self._residency = residency
        self._scheduler = Scheduler(residency, config, instruments, self._wake, self._ended_job)
        self._heartbeat_s = config.heartbeat_s
        self._numbers = itertools.count()
        self._open: set[int] = set()
        self._opened = threading.Condition()
        self._is_draining = False
        self._beat = time.monotonic()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, order: Order, on_event: Callable[[EngineEvent], None]) -> Job:
        """Ask for the pictures of an order, from any thread. `on_event` is called in the engine's and must not wait.

        The last event is a `Finished`, a `Refusal` or a `Stopped`.
        """
        with self._opened:
            job = Job(order, on_event, next(self._numbers))
            is_refused = self._is_draining
            if not is_refused:
                self._open.add(job.number)
        if is_refused:
            on_event(Refusal("overloaded", "this replica is being stopped; try again", retry_after_s=1))
            return job
        self._inbox.put(job)
        if self._ended.is_set():
            self._refuse_inbox()
        return job

    def cancel(self, job: Job) -> None:
        """Take an order back, from any thread: its rows leave before the next step, and it is told no more then."""
        self._inbox.put(_Cancel(job))

    def call(self, do: Callable[[], ResultT]) -> "Future[ResultT]":
        """Do something with the models, between two steps."""
        future: Future[ResultT] = Future()
        self._inbox.put(_Task(do, future))
        if self._ended.is_set():
            self._refuse_inbox()
        return future

    def reconfigure(self, config: EngineConfig) -> "Future[None]":
        """Take other bounds, between two steps."""
        self._heartbeat_s = config.heartbeat_s

        def change() -> None:
            self._scheduler.config = config
            self._residency.reconfigure(config)

        return self.call(change)

    def stats(self) -> EngineStats:
        """Figures of the last step or event, from any thread."""
        return self._scheduler.stats

    def check_health(self) -> None:
        """Refuse to be taken for alive.

        Raises:
            EngineStoppedError: The thread has ended, or has not been heard of for too long.
        """
        if not self._thread.is_alive():
            raise EngineStoppedError("the engine thread is dead; the log of this replica says why")
        silent_s = time.monotonic() - self._beat
        if silent_s > self._heartbeat_s:
            raise EngineStoppedError(
                f"the engine thread has been silent for {silent_s:.0f} s, more than engine.heartbeat_s "
                f"{self._heartbeat_s:g}; its device hangs"
            )

    def drain(self, timeout_s: float) -> bool:
        """Refuse what comes from now on, and wait for what is under way; whether all of it ended."""
        with self._opened:
            self._is_draining = True
            return self._opened.wait_for(lambda: not self._open, timeout_s)

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread after the step it is in; whoever still waits hears of it."""
        self._inbox.put(_End())
        self._thread.join(timeout_s)
        self._residency.close()

    def _wake(self) -> None:
        self._inbox.put(_Wake())

    def _ended_job(self, job: Job) -> None:
        with self._opened:
            self._open.discard(job.number)
            self._opened.notify_all()

    def _run(self) -> None:
        try:
            while self._take_inbox():
                self._beat = time.monotonic()
                self._scheduler.turn()
        except Exception:
            # After a failed step the device cannot be trusted: the thread ends, and the health check has it replaced.
            log.exception("engine thread ended")
        finally:
            self._ended.set()
            self._scheduler.stop()
            self._refuse_inbox()

    def _take_inbox(self) -> bool:
        """Take what has arrived, and sleep while there is nothing to do. False: time to end."""
        is_first = True
        while True:
            try:
                message = self._inbox.get(block=False)
            except queue.Empty:
                if not is_first or self._scheduler.has_work:
                    return True
                self._scheduler.rest()
                try:
                    message = self._inbox.get(timeout=self._sleep_s())
                except queue.Empty:
                    return True
            is_first = False
            if isinstance(message, _End):
                return False
            self._take(message)

    def _sleep_s(self) -> float:
        deadline = self._scheduler.next_deadline
        left = IDLE_S if deadline is None else deadline - time.monotonic()
        return min(IDLE_S, max(0.001, left))

    def _take(self, message: Job | _Cancel | _Task | _Wake) -> None:
        if isinstance(message, Job):
            self._scheduler.arrive(message)
        elif isinstance(message, _Cancel):
            self._scheduler.leave(message.job)
        elif isinstance(message, _Task) and message.future.set_running_or_notify_cancel():
            try:
                message.future.set_result(message.do())
            except Exception as error:
                message.future.set_exception(error)

    def _refuse_inbox(self) -> None:
        while True:
            try:
                message = self._inbox.get(block=False)
            except queue.Empty:
                return
            if isinstance(message, Job):
                message.tell(Stopped())
                self._ended_job(message)
            elif isinstance(message, _Task) and message.future.set_running_or_notify_cancel():
                message.future.set_exception(EngineStoppedError("the engine has stopped"))
