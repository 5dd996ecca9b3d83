"""What the engine thread does between two sleeps: lets orders in, steps their rows, hands their pictures over."""

import logging
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

from nigaoe.core.engine.engine import Engine, Stepped
from nigaoe.serve.config import EngineConfig
from nigaoe.serve.engine.jobs import PROGRESS_S, Finished, Job, Sketch, State, Stopped, refusal_of
from nigaoe.serve.engine.pace import Pace
from nigaoe.serve.engine.prompts import prepare
from nigaoe.serve.engine.residency import Residency
from nigaoe.serve.engine.waiting import Waiting, predicted_s
from nigaoe.serve.orders import EngineStats, Progress, Refusal
from nigaoe.serve.watching.instruments import Instruments

log = logging.getLogger(__name__)

ENCODE_S = 0.05
"""Once prompts and pictures of those who wait have been encoded for so long, those who are being drawn take a step."""
TELL_S = 1.0
"""Between two looks of the instruments at the whole."""


class Scheduler:
    """All orders of a replica. For the engine thread alone, but for `stats`."""

    def __init__(
        self,
        residency: Residency,
        config: EngineConfig,
        instruments: Instruments | None,
        wake: Callable[[], None],
        on_end: Callable[[Job], None],
    ) -> None:
        """`wake` is called from other threads when there is something to do, `on_end` after an order's last event."""
        self._residency, self.config, self._instruments = residency, config, instruments
        self._wake, self._on_end = wake, on_end
        self._jobs: dict[int, Job] = {}
        self._rows: dict[tuple[str, int], Job] = {}
        """By base and ticket."""
        self._waiting, self._pace = Waiting(), Pace()
        if residency.first_call_s is not None:
            self._pace.record(1, residency.first_call_s)
        self._preparer = ThreadPoolExecutor(1, thread_name_prefix="preparer")
        self._unet_calls = 0
        self._accounted_until: float | None = None
        self._told_at = 0.0
        self.stats = EngineStats(0, 0, 0, 0.0, 0)
        self.look()

    @property
    def has_work(self) -> bool:
        """Whether the next turn does something, whatever comes meanwhile."""
        if self._active_rows:
            return True
        return any(job.state in (State.READY, State.ENTERED) for job in self._waiting)

    @property
    def next_deadline(self) -> float | None:
        """Of all orders."""
        return min((job.deadline for job in self._jobs.values() if job.deadline is not None), default=None)

    def arrive(self, job: Job) -> None:
        """Let an order wait, or refuse it if it would come too late."""
        if job.deadline is not None:
            engines = self._residency.engines().values()
            active = sum(e.active_rows for e in engines), sum(e.pending_row_steps for e in engines)
            needed = predicted_s(job, self._waiting, self._pace, active, self.config.max_rows)
            beyond = 0.0 if needed is None else time.monotonic() + needed - job.deadline
            if beyond > 0:
                assert needed is not None
                reason = f"it would take about {needed:.3g} s from now, which is past its deadline; try again later"
                self._jobs[job.number] = job
                self._end(job, Refusal("late", reason, retry_after_s=max(1, round(beyond + 0.5))))
                return
        self._jobs[job.number] = job
        self._waiting.add(job)

    def leave(self, job: Job) -> None:
        """Nobody wants an order any more."""
        if job.number in self._jobs:
            self._end(job, None)

    def turn(self) -> None:
        """Do what can be done now, with one step of all that is under way."""
        now = time.monotonic()
        for job in list(self._jobs.values()):
            if job.deadline is not None and now > job.deadline:
                self._end(job, Refusal("late", "its deadline passed before it was done; try again later"))
        for job in self._waiting:
            # Those behind an order that waits for room would take the room.
            if not self._advance(job):
                break
        self._enter_some()
        self.look()
        for base, engine in self._residency.engines().items():
            if engine.active_rows:
                self._step(base, engine)

    def rest(self) -> None:
        """There is nothing to do; the time until there is counts for nothing."""
        self._accounted_until = None
        self.look()

    def stop(self) -> None:
        """Tell everybody that nothing will come of it."""
        self._preparer.shutdown(wait=False, cancel_futures=True)
        for job in list(self._jobs.values()):
            job.tell(Stopped())
            self._on_end(job)
        self._jobs.clear()

    def look(self) -> None:
        """Put down the figures of this moment."""
        engines = self._residency.engines()
        self.stats = EngineStats(
            active_rows=sum(engine.active_rows for engine in engines.values()),
            waiting_rows=self._waiting.rows,
            pending_row_steps=sum(e.pending_row_steps for e in engines.values()) + self._waiting.row_steps,
            row_steps_per_s=self._pace.row_steps_per_s,
            unet_calls=self._unet_calls,
            bases=tuple(engines),
            adapters=self._residency.adapter_names,
            memory_bytes=self._residency.memory_bytes,
            caches=self._residency.cache_counts(),
        )
        if self._instruments is not None and time.monotonic() - self._told_at > TELL_S:
            self._told_at = time.monotonic()
            self._instruments.engine(self.stats)

    @property
    def _active_rows(self) -> int:
        return sum(engine.active_rows for engine in self._residency.engines().values())

    def _advance(self, job: Job) -> bool:
        """Bring what an order needs; False: there is no room for it yet."""
        try:
            if job.state is State.NEW:
                job.lease = self._residency.acquire(job.order)
                if job.lease is None:
                    return False
                job.state = State.LOADING
            if job.state is State.LOADING:
                assert job.lease is not None
                if job.lease.is_ready:
                    self._prepare(job)
            if job.state is State.PREPARING:
                assert job.preparing is not None
                if job.preparing.done():
                    job.prepared, job.state = job.preparing.result(), State.READY
        except Exception as error:
            self._fail(job, error)
        return True

    def _prepare(self, job: Job) -> None:
        residency, lease = self._residency, job.lease
        assert lease is not None
        base = lease.base.result().thing.base
        adapters = [future.result().thing for future in lease.adapters]
        residency.require_room(lease)
        residency.settle()
        side = residency.conditioner.encoder_side
        job.preparing = self._preparer.submit(prepare, job.order, base, adapters, side, residency.faces)
        job.preparing.add_done_callback(lambda _: self._wake())
        job.state = State.PREPARING

    def _enter_some(self) -> None:
        began = time.monotonic()
        while self._active_rows < self.config.max_active_rows:
            job = next((job for job in self._waiting if job.state in (State.READY, State.ENTERED)), None)
            if job is None:
                return
            self._enter_row(job)
            if self._active_rows and time.monotonic() - began > ENCODE_S:
                return

    def _enter_row(self, job: Job) -> None:
        """Encode one picture's prompts and let its row join."""
        assert job.lease is not None
        assert job.prepared is not None
        began, place, prepared = time.monotonic(), job.entered, job.prepared
        job.entered_at = job.entered_at or began
        try:
            prompts = job.image_prompts
            if prompts is None:
                prompts = prepared.image_prompts(self._residency.conditioner, place)
                job.image_prompts = prompts if prepared.is_alike else None
            engine = job.lease.base.result().thing
            ticket = engine.submit(prepared.generation(place, prompts), priority=job.order.priority)
        except Exception as error:
            self._fail(job, error)
            return
        job.encoded_s += time.monotonic() - began
        job.places[ticket] = place
        self._rows[job.order.base, ticket] = job
        job.entered, job.state = job.entered + 1, State.ENTERED
        if job.entered == len(job.order.seeds):
            self._waiting.remove(job)
            job.prepared = job.image_prompts = None

    def _step(self, base: str, engine: Engine) -> None:
        began = time.monotonic()
        stepped = engine.step()
        ended = time.monotonic()
        if stepped.rows:
            self._unet_calls += 1
            self._pace.record(len(stepped.rows), ended - (self._accounted_until or began))
            if self._instruments is not None:
                rows = Counter(self._rows[base, ticket].adapters for ticket in stepped.rows)
                self._instruments.stepped(base, rows, engine.max_rows, ended - began)
        self._accounted_until = ended
        # Before anybody hears of it: who has a picture finds its steps in the figures.
        self.look()
        self._show(base, engine, stepped)
        self._hand_over(base, engine, stepped)

    def _show(self, base: str, engine: Engine, stepped: Stepped) -> None:
        """Previews, for those who asked."""
        progress = engine.progress()
        due = {}
        for ticket in stepped.rows:
            job = self._rows[base, ticket]
            if job.order.partial_images and ticket in progress:
                index = job.preview_index(*progress[ticket])
                if index is not None:
                    due[ticket] = index
        if not due:
            return
        try:
            shown = engine.preview(due)
        except RuntimeError:
            log.warning("previews failed", exc_info=True)
            return
        for ticket, image in shown.items():
            job = self._rows[base, ticket]
            job.tell(Sketch(job.places[ticket], due[ticket], image))

    def _hand_over(self, base: str, engine: Engine, stepped: Stepped) -> None:
        now = time.monotonic()
        for ticket, error in stepped.failures.items():
            job = self._rows.get((base, ticket))
            if job is not None:
                # Pictures of an order that cannot be had: its others are of no use to whoever waits for all.
                self._fail(job, error)
        for ticket, image in stepped.pictures.items():
            job = self._rows.pop((base, ticket), None)
            if job is not None:
                job.pictures[job.places.pop(ticket)] = image
        progress = engine.progress()
        for job in [job for job in self._jobs.values() if job.order.base == base and job.state is State.ENTERED]:
            self._tell_progress(job, progress, now)
            if not job.places and job.entered == len(job.order.seeds):
                self._finish(job, now)

    def _tell_progress(self, job: Job, progress: dict[int, tuple[int, int]], now: float) -> None:
        own = [progress[ticket] for ticket in job.places]
        is_whole = job.entered == len(job.order.seeds)
        if is_whole and job.stepped_at is None and all(position == steps for position, steps in own):
            job.stepped_at = now
        if not own:
            return
        step = min(position for position, _ in own) if is_whole else 0
        since, known = job.told
        if step != known and now - max(since, job.entered_at or 0.0) >= PROGRESS_S:
            job.told = now, step
            job.tell(Progress(step, own[0][1]))

    def _finish(self, job: Job, now: float) -> None:
        images = tuple(job.pictures[place] for place in sorted(job.pictures))
        self._end(job, Finished(images, job.timings(now)))

    def _fail(self, job: Job, error: BaseException) -> None:
        refusal = refusal_of(error)
        log.log(
            logging.WARNING if refusal.kind == "failed" else logging.INFO,
            "an order failed",
            extra={"request_id": job.order.id, "reason": refusal.reason},
            exc_info=error if refusal.kind == "failed" else None,
        )
        self._end(job, refusal)

    def _end(self, job: Job, event: Finished | Refusal | None) -> None:
        """The last event of an order; its rows leave, and what it drew with may."""
        self._waiting.remove(job)
        if job.preparing is not None:
            job.preparing.cancel()
        if job.lease is not None:
            for ticket in job.places:
                job.lease.base.result().thing.cancel(ticket)
                self._rows.pop((job.order.base, ticket), None)
            self._residency.release(job.lease)
        job.state, job.lease, job.prepared, job.image_prompts = State.ENDED, None, None, None
        del self._jobs[job.number]
        self.look()
        if event is not None:
            job.tell(event)
        self._on_end(job)
