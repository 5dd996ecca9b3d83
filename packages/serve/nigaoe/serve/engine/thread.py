"""The thread that owns the models. Whoever wants pictures puts an order into its inbox and holds a future.

Rows of all orders on one base share UNet calls: an order that arrives joins before the next step. To leave,
cancelling the future is enough: the thread looks before every step.
"""

import logging
import queue
import threading
from concurrent.futures import Future
from dataclasses import dataclass, field

from PIL import Image

from nigaoe.core.bases import Base
from nigaoe.core.engine.engine import Engine, Stepped
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt
from nigaoe.core.engine.runners import make_runner
from nigaoe.core.image_prompts.conditioner import Conditioner, Reference
from nigaoe.core.image_prompts.prompt import PromptScales
from nigaoe.serve.config import EngineConfig
from nigaoe.serve.engine.models import Models
from nigaoe.serve.orders import EngineStats, Order

log = logging.getLogger(__name__)

Pictures = dict[int, Image.Image]


class EngineStoppedError(RuntimeError):
    """The engine thread has ended; its replica must be replaced."""


@dataclass(eq=False)
class _Job:
    order: Order
    future: "Future[list[Image.Image]]" = field(default_factory=Future)
    places: dict[int, int] = field(default_factory=dict)
    """Ticket to place among the order's pictures, of rows still under way."""
    pictures: Pictures = field(default_factory=dict)
    """By place."""

    def fail(self, error: BaseException) -> None:
        if self.future.set_running_or_notify_cancel():
            self.future.set_exception(error)


class EngineThread:
    """One engine per base, stepped in turn for as long as anybody waits."""

    def __init__(self, models: Models, config: EngineConfig) -> None:
        self._engines = {name: _engine(base, config) for name, base in models.bases.items()}
        for engine in self._engines.values():
            # The first call compiles and allocates; a server is ready when that is done.
            engine.generate([Generation(prompt="", steps=1)])
        self._adapters = models.adapters
        self._conditioner = Conditioner(models.image_encoder, prompt_bytes=config.cached_image_prompts_mib * 2**20)
        self._inbox: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._jobs: list[_Job] = []
        self._unet_calls = 0
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)
        self._thread.start()

    def submit(self, order: Order) -> "Future[list[Image.Image]]":
        """Ask for the pictures of an order, from any thread. Cancel the future to take it back."""
        job = _Job(order)
        self._inbox.put(job)
        if self._ended.is_set():
            self._refuse_inbox()
        return job.future

    @property
    def is_alive(self) -> bool:
        """Whether orders are still drawn."""
        return self._thread.is_alive()

    def stats(self) -> EngineStats:
        """Figures of this moment, from any thread."""
        engines = self._engines.values()
        return EngineStats(
            active_rows=sum(engine.active_rows for engine in engines),
            pending_row_steps=sum(engine.pending_row_steps for engine in engines),
            unet_calls=self._unet_calls,
        )

    def close(self, timeout_s: float = 10.0) -> None:
        """End the thread after the step it is in; whoever still waits hears of it."""
        self._inbox.put(None)
        self._thread.join(timeout_s)

    def _run(self) -> None:
        try:
            while self._admit():
                self._withdraw_cancelled()
                for name, engine in self._engines.items():
                    if engine.active_rows:
                        stepped = engine.step()
                        # Counted before anybody hears of it: who has a picture finds its steps in the figures.
                        self._unet_calls += 1
                        self._hand_over(name, stepped)
        except Exception:
            # After a failed step the device cannot be trusted: the thread ends, and the health check has it replaced.
            log.exception("engine thread ended")
        finally:
            self._ended.set()
            for job in self._jobs:
                job.fail(EngineStoppedError("the engine stopped while drawing"))
            self._refuse_inbox()

    def _admit(self) -> bool:
        """Let in what has arrived, and sleep while there is nothing to do. False: time to end."""
        while True:
            try:
                job = self._inbox.get(block=not self._jobs)
            except queue.Empty:
                return True
            if job is None:
                return False
            self._begin(job)

    def _begin(self, job: _Job) -> None:
        engine = self._engines[job.order.base]
        try:
            for place, generation in enumerate(self._generations(job.order)):
                job.places[engine.submit(generation)] = place
        except Exception as error:
            # Its own fault or that of its picture: nobody else's request may suffer.
            self._withdraw(job)
            job.fail(error)
        else:
            self._jobs.append(job)

    def _generations(self, order: Order) -> list[Generation]:
        prompts = self._image_prompts(order)
        width, height = order.size or (None, None)
        return [
            Generation(
                prompt=order.prompt,
                negative_prompt=order.negative_prompt,
                image_prompts=prompts,
                seed=seed,
                steps=order.steps,
                guidance_scale=order.guidance_scale,
                width=width,
                height=height,
            )
            for seed in order.seeds
        ]

    def _image_prompts(self, order: Order) -> tuple[GuidedImagePrompt, ...]:
        if order.reference is None:
            return ()
        assert order.adapter is not None
        picture = Image.fromarray(order.reference.pixels)
        reference = Reference(images=(picture,), scales=PromptScales(scale=order.adapter_scale))
        return (self._conditioner.prompt(self._adapters[order.adapter], reference),)

    def _withdraw_cancelled(self) -> None:
        for job in [job for job in self._jobs if job.future.cancelled()]:
            self._withdraw(job)
            self._jobs.remove(job)

    def _withdraw(self, job: _Job) -> None:
        for ticket in job.places:
            self._engines[job.order.base].cancel(ticket)

    def _hand_over(self, base: str, stepped: Stepped) -> None:
        for job in [job for job in self._jobs if job.order.base == base]:
            failed = stepped.failures.keys() & job.places.keys()
            if failed:
                # Pictures of an order that cannot be had: its others are of no use to whoever waits for all.
                job.fail(stepped.failures[min(failed)])
                self._withdraw(job)
                self._jobs.remove(job)
                continue
            for ticket in stepped.pictures.keys() & job.places.keys():
                job.pictures[job.places.pop(ticket)] = stepped.pictures[ticket]
            if not job.places:
                self._jobs.remove(job)
                if job.future.set_running_or_notify_cancel():
                    job.future.set_result([job.pictures[place] for place in sorted(job.pictures)])

    def _refuse_inbox(self) -> None:
        while True:
            try:
                job = self._inbox.get(block=False)
            except queue.Empty:
                return
            if job is not None:
                job.fail(EngineStoppedError("the engine has stopped"))


def _engine(base: Base, config: EngineConfig) -> Engine:
    runner = None if config.runner is None else make_runner(config.runner, base.unet)
    return Engine(base, config.max_rows, runner=runner)
