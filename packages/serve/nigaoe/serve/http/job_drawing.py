"""A job drawn: from what was kept of a request to the last state of the job."""

import asyncio
import logging
import time
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import cast

from nigaoe.core.errors import DataError, NigaoeError
from nigaoe.serve.catalog import Catalog
from nigaoe.serve.http.access import Caller
from nigaoe.serve.http.answering import MEDIA_TYPES
from nigaoe.serve.http.drawing import events
from nigaoe.serve.http.native import GenerateRequest, native_answer, native_order
from nigaoe.serve.http.problems import Problem, internal_problem, of_nigaoe
from nigaoe.serve.orders import AdapterAt, Drawn, Order, Progress
from nigaoe.serve.services import Services
from nigaoe.serve.stores.jobs import JobDocument

log = logging.getLogger(__name__)

_WAITS = ("overloaded", "deadline_exceeded", "replica_lost")


@dataclass(eq=False)
class HeldJob:
    """A job that this ingress holds."""

    document: JobDocument
    woken: asyncio.Event = field(default_factory=asyncio.Event)
    """It is to be cancelled."""


class _Pinned:
    """A catalog that knows the versions that were meant when a job was asked for, and no others."""

    def __init__(self, adapters: tuple[AdapterAt, ...]) -> None:
        self._known = {adapter.name: adapter for adapter in adapters}

    async def find(self, name: str | None) -> AdapterAt:
        """The version of a name; a job says all names."""
        assert name is not None
        return self._known[name]


def settled(request: GenerateRequest, order: Order) -> GenerateRequest:
    """The request with everything said that was left to the server or to chance: drawn again it gives the same."""
    prompts = [
        prompt.model_copy(update={"adapter": ordered.adapter.name, "scale": ordered.scale})
        for prompt, ordered in zip(request.image_prompts, order.image_prompts, strict=True)
    ]
    said = {
        "base": order.base,
        "seeds": list(order.seeds),
        "n": None,
        "seed": None,
        "steps": order.steps,
        "guidance_scale": order.guidance_scale,
        "sampler": order.sampler,
        "quality": None,
        "image_prompts": prompts,
        "response_format": "url",
    }
    return request.model_copy(update=said)


def failed(document: JobDocument, problem: Problem) -> JobDocument:
    """The last state of a job that came to nothing."""
    error = problem.body.error.model_dump()
    return document.model_copy(update={"status": "failed", "finished": time.time(), "error": error})


async def drawn_job(services: Services, job: HeldJob, places: asyncio.Semaphore) -> JobDocument:
    """Draw a job when there is a place; what comes of it is its last state, whatever it is."""
    try:
        async with places:
            document = job.document
            job.document = document.model_copy(update={"status": "running", "started": time.time()})
            text = await services.objects.jobs.get_request(document.id)
            request = await asyncio.to_thread(GenerateRequest.model_validate_json, text)
            pinned = replace(services, catalog=cast(Catalog, _Pinned(document.adapters)))
            caller = Caller(document.caller, document.priority, may_manage=False)
            order = await native_order(request, pinned, caller, document.request_id)
            # A job may take as long as it takes.
            order = replace(order, deadline_s=None)
            drawn = await _drawn(services, job, order)
            names = [
                await services.objects.results.put(picture, MEDIA_TYPES[order.output_format])
                for picture in drawn.pictures
            ]
            answer = native_answer(order, drawn, names).model_dump(mode="json")
        return job.document.model_copy(
            update={"status": "succeeded", "finished": time.time(), "files": tuple(names), "answer": answer}
        )
    except Problem as problem:
        return failed(job.document, problem)
    except DataError as error:
        return failed(job.document, Problem(503, "storage_unavailable", str(error)))
    except NigaoeError as error:
        return failed(job.document, of_nigaoe(error))
    except Exception as error:
        log.error("job failed", exc_info=error, extra={"job": job.document.id})
        return failed(job.document, internal_problem())


async def _drawn(services: Services, job: HeldJob, order: Order) -> Drawn:
    while True:
        try:
            async with aclosing(events(services, order)) as told:
                async for event in told:
                    if isinstance(event, Progress):
                        job.document = job.document.model_copy(update={"step": event.step, "steps": event.steps})
                    elif isinstance(event, Drawn):
                        return event
            raise RuntimeError(f"the backend said no last word on order {order.id!r}")
        except Problem as problem:
            if problem.code not in _WAITS:
                raise
            # Jobs wait for room, for nobody waits for them.
            await asyncio.sleep(float(problem.headers.get("Retry-After", "2")))
