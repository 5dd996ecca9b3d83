"""Jobs under way in this ingress: each says again and again that it is, and is taken up elsewhere once it does not."""

import asyncio
import logging
import random
import secrets
import time
from collections.abc import Iterable

from nigaoe.core.errors import NigaoeError
from nigaoe.serve.http.access import Caller
from nigaoe.serve.http.job_drawing import HeldJob, drawn_job, failed, settled
from nigaoe.serve.http.native import GenerateRequest, native_order
from nigaoe.serve.http.problems import Problem
from nigaoe.serve.services import Services
from nigaoe.serve.stores.ids import UnknownObject
from nigaoe.serve.stores.jobs import JobDocument

log = logging.getLogger(__name__)

BEAT_S = 1.0
QUEUED_BEAT_S = 5.0
SETTLING_S = 0.5
"""Two ingresses that take up one job at once see within this time which of them wrote last."""
MOST_JOBS = 64
"""Under way in one ingress, those that wait counted."""
MOST_ATTEMPTS = 3
"""A job whose holder died so often is what they died of."""


class JobRunner:
    """Holds jobs. For one event loop."""

    def __init__(self, services: Services) -> None:
        self._services, self._store = services, services.objects.jobs
        self._name = secrets.token_hex(8)
        self._jobs: dict[str, HeldJob] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._places = asyncio.Semaphore(services.config.engine.max_rows)
        self._over: set[str] = set()

    async def submit(self, request: GenerateRequest, caller: Caller, request_id: str) -> JobDocument:
        """Check a request as if it were to be drawn at once, keep it, and draw it when there is room.

        Raises:
            Problem: It is refused, or there are too many jobs.
            DataError: It cannot be kept.
        """
        if len(self._jobs) >= MOST_JOBS:
            raise Problem(429, "overloaded", f"{MOST_JOBS} jobs are waiting; try again later", retry_after_s=10)
        order = await native_order(request, self._services, caller, request_id)
        name = self._store.new_name()
        kept = settled(request, order)
        # Without the parts that were left out; on a thread, for the pictures become text again.
        text = await asyncio.to_thread(lambda: kept.model_dump_json(exclude_none=True, exclude_unset=True))
        document = JobDocument(
            id=name,
            caller=caller.name,
            priority=caller.priority,
            request_id=request_id,
            created=time.time(),
            steps=order.steps,
            adapters=tuple(prompt.adapter for prompt in order.image_prompts),
            holder=self._name,
            heartbeat=time.time(),
        )
        await self._store.put_request(name, text.encode())
        await self._store.put(document)
        self._begin(document)
        return document

    async def look(self, name: str) -> JobDocument:
        """The state of a job; one that nobody works at any more is taken up.

        Raises:
            UnknownObject: There is no such job.
            DataError: It cannot be read.
        """
        document = await self._store.get(name)
        if document.is_orphaned(time.time()) and name not in self._jobs:
            return await self._adopt(document)
        return document

    async def cancel(self, name: str) -> JobDocument:
        """Let a job be drawn no further, wherever it is; returns its state, which may not say so yet.

        Raises:
            UnknownObject: There is no such job.
            DataError: It cannot be read or written.
        """
        document = await self.look(name)
        if document.is_over:
            return document
        await self._store.ask_to_cancel(name)
        if (job := self._jobs.get(name)) is not None:
            job.woken.set()
        # Whoever holds it looks within a beat, so that most callers are told how it ended.
        for _ in range(20):
            document = await self._store.get(name)
            if document.is_over:
                break
            await asyncio.sleep(0.1)
        return document

    async def adopt_orphans(self) -> int:
        """Take up all jobs that nobody works at; returns how many.

        Raises:
            DataError: Jobs cannot be listed or written.
        """
        quiet = await self._store.quiet(time.time())
        self._over &= set(quiet)
        taken = 0
        for name in quiet:
            if name in self._over or name in self._jobs or len(self._jobs) >= MOST_JOBS:
                continue
            try:
                document = await self._store.get(name)
            except NigaoeError as error:
                log.warning("job %s cannot be looked at: %s", name[:60], error)
                self._over.add(name)
                continue
            if document.is_over:
                self._over.add(name)
            elif document.is_orphaned(time.time()):
                await self._adopt(document)
                taken += 1
        return taken

    async def close(self) -> None:
        """Let go of all jobs; another ingress takes them up at once."""
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    def _begin(self, document: JobDocument, *, is_adopted: bool = False) -> None:
        job = self._jobs[document.id] = HeldJob(document)
        task = asyncio.create_task(self._hold(job, is_adopted=is_adopted))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _adopt(self, document: JobDocument) -> JobDocument:
        now = time.time()
        taken = document.model_copy(
            update={"holder": self._name, "heartbeat": now, "status": "queued", "attempts": document.attempts + 1}
        )
        if await self._store.is_cancelled(document.id):
            taken = taken.model_copy(update={"status": "cancelled", "finished": now})
        elif taken.attempts > MOST_ATTEMPTS:
            problem = Problem(500, "job_failed", f"whoever drew this job ended {MOST_ATTEMPTS} times; change it")
            taken = failed(taken, problem)
        await self._store.put(taken)
        if taken.is_over:
            await self._store.clear(taken.id)
        elif document.id not in self._jobs:
            log.info("job taken up", extra={"job": document.id, "request_id": document.request_id})
            self._begin(taken, is_adopted=True)
        return taken

    async def _hold(self, job: HeldJob, *, is_adopted: bool) -> None:
        """Work at a job to its end, or until it is somebody else's."""
        work: asyncio.Task[JobDocument] | None = None
        try:
            if is_adopted:
                await asyncio.sleep(SETTLING_S * (1 + random.random()))
                if not await self._is_ours(job):
                    return
            work = asyncio.create_task(drawn_job(self._services, job, self._places))
            is_cancelled = await self._until_done(job, work)
            if is_cancelled is None:
                return
            if is_cancelled:
                await _ended(work)
                ended = job.document.model_copy(update={"status": "cancelled", "finished": time.time()})
            else:
                ended = work.result()
            await self._end(job, ended)
        except asyncio.CancelledError:
            await self._let_go(job)
            raise
        except NigaoeError as error:
            log.error("job %s cannot be kept: %s", job.document.id, error)
        finally:
            self._jobs.pop(job.document.id, None)
            if work is not None:
                await _ended(work)

    async def _until_done(self, job: HeldJob, work: "asyncio.Task[JobDocument]") -> bool | None:
        """Say again and again that it is under way. True: it is to be cancelled; None: it is somebody else's now."""
        woken = asyncio.create_task(job.woken.wait())
        try:
            while not work.done():
                await asyncio.wait({work, woken}, timeout=BEAT_S, return_when=asyncio.FIRST_COMPLETED)
                if work.done():
                    return False
                is_waiting = job.document.status == "queued" and not woken.done()
                if is_waiting and time.time() - job.document.heartbeat < QUEUED_BEAT_S:
                    continue
                try:
                    if not await self._is_ours(job):
                        return None
                    if woken.done() or await self._store.is_cancelled(job.document.id):
                        return True
                    job.document = job.document.model_copy(update={"heartbeat": time.time()})
                    await self._store.put(job.document)
                except UnknownObject:
                    return None
                except NigaoeError as error:
                    # The storage may come back before anybody misses this sign of life.
                    log.warning("job %s has no sign of life: %s", job.document.id, error)
            return False
        finally:
            woken.cancel()

    async def _let_go(self, job: HeldJob) -> None:
        """This ingress ends: whoever sees so old a sign of life takes the job up at once."""
        try:
            if await self._is_ours(job):
                released = {"heartbeat": 0.0, "attempts": job.document.attempts - 1}
                await self._store.put(job.document.model_copy(update=released))
        except NigaoeError as error:
            log.warning("job %s will be taken up late: %s", job.document.id, error)

    async def _is_ours(self, job: HeldJob) -> bool:
        try:
            standing = await self._store.get(job.document.id)
        except UnknownObject:
            return False
        return standing.holder == self._name and not standing.is_over

    async def _end(self, job: HeldJob, ended: JobDocument) -> None:
        if not await self._is_ours(job):
            # Somebody else draws it, or has; these pictures are nobody's.
            await self.forget_files(ended.files)
            return
        await self._store.put(ended)
        await self._store.clear(ended.id)
        log.info("job ended", extra={"job": ended.id, "status": ended.status, "request_id": ended.request_id})

    async def forget_files(self, names: Iterable[str]) -> None:
        """Remove pictures.

        Raises:
            DataError: They cannot be removed.
        """
        for name in names:
            await self._services.objects.results.delete(name)


async def _ended(work: "asyncio.Task[JobDocument]") -> None:
    work.cancel()
    await asyncio.gather(work, return_exceptions=True)
