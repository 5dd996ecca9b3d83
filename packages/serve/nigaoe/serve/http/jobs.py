"""`/v1/jobs`: what takes longer than a connection should be kept open."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import APIRouter, FastAPI, Request
from pydantic import BaseModel, ConfigDict

from nigaoe.core.errors import DataError, NigaoeError
from nigaoe.serve.http.access import Caller
from nigaoe.serve.http.bodies import json_body
from nigaoe.serve.http.documentation import body_of
from nigaoe.serve.http.job_running import JobRunner
from nigaoe.serve.http.native_schemas import GenerateRequest, TimingsBody
from nigaoe.serve.http.problems import FAILURES, ErrorDetail, Problem, invalid_value
from nigaoe.serve.orders import OutputFormat
from nigaoe.serve.services import Services
from nigaoe.serve.stores.ids import UnknownObject
from nigaoe.serve.stores.jobs import JobDocument, JobStatus

log = logging.getLogger(__name__)

ORPHANS_EVERY_S = 30.0
SWEEP_EVERY_S = 600.0


class JobPicture(BaseModel):
    """One finished picture."""

    file: str
    """For `/v1/files`."""
    url: str
    seed: int


class JobResult(BaseModel):
    """What a job came to."""

    images: list[JobPicture]
    base: str
    size: str
    output_format: OutputFormat
    timings: TimingsBody
    parameters: dict[str, Any]
    """The request as it was understood, every default filled in; uploads by their hashes."""


class Job(BaseModel):
    """A request that is drawn while nobody waits."""

    model_config = ConfigDict(use_attribute_docstrings=True)

    object: Literal["job"] = "job"
    id: str
    status: JobStatus
    created: int
    """Unix seconds."""
    started: int | None = None
    finished: int | None = None
    step: int
    """Of the picture that is farthest behind."""
    steps: int
    result: JobResult | None = None
    """Once it has succeeded."""
    error: ErrorDetail | None = None
    """Once it has failed."""


def job_routes(services: Services) -> APIRouter:
    """The routes of jobs; as long as they are up, orphaned jobs are taken up and what is over is swept."""
    runner = JobRunner(services)

    @asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        keeping = asyncio.create_task(_keep_house(runner, services))
        try:
            yield
        finally:
            keeping.cancel()
            await asyncio.gather(keeping, return_exceptions=True)
            await runner.close()

    router = APIRouter(tags=["jobs"], lifespan=lifespan)

    async def own(request: Request, name: str) -> JobDocument:
        document = await runner.look(name)
        caller: Caller = request.state.caller
        if document.caller != caller.name:
            # As if there were none: not even that is anybody else's business.
            raise UnknownObject(f"{name[:60]!r} is not here, or no more; give a name as it was answered, job_...")
        return document

    @router.post(
        "/v1/jobs", status_code=202, responses=FAILURES, openapi_extra=body_of(GenerateRequest, "application/json")
    )
    async def submit(request: Request) -> Job:
        """Take what `/v1/generate` takes; what it would refuse is refused at once."""
        body = await json_body(request, GenerateRequest, services)
        if body.stream or body.partial_images:
            raise invalid_value("stream", "a job cannot stream; ask for its state, or use /v1/generate")
        try:
            document = await runner.submit(body, request.state.caller, request.state.request_id)
        except DataError as error:
            raise _problem(error) from None
        return _shown(document, request)

    @router.get("/v1/jobs/{name}", responses=FAILURES)
    async def job(name: str, request: Request) -> Job:
        """Ask how a job is doing."""
        try:
            return _shown(await own(request, name), request)
        except NigaoeError as error:
            raise _problem(error) from None

    @router.post("/v1/jobs/{name}/cancel", responses=FAILURES)
    async def cancel(name: str, request: Request) -> Job:
        """Stop a job before its next step; one that is over stays as it is."""
        try:
            await own(request, name)
            return _shown(await runner.cancel(name), request)
        except NigaoeError as error:
            raise _problem(error) from None

    @router.delete("/v1/jobs/{name}", responses=FAILURES)
    async def delete(name: str, request: Request) -> Job:
        """Stop a job that is under way; forget one that is over, with its pictures."""
        try:
            document = await own(request, name)
            if not document.is_over:
                return _shown(await runner.cancel(name), request)
            await runner.forget_files(document.files)
            await services.objects.jobs.delete(name)
            return _shown(document, request)
        except NigaoeError as error:
            raise _problem(error) from None

    return router


async def _keep_house(runner: JobRunner, services: Services) -> None:
    swept_at = float("-inf")
    loop = asyncio.get_running_loop()
    while True:
        try:
            await runner.adopt_orphans()
            if loop.time() - swept_at >= SWEEP_EVERY_S:
                swept_at = loop.time()
                swept = {"objects": await services.objects.sweep(), "adapters": await services.catalog.sweep()}
                if any(swept.values()):
                    log.info("storage swept", extra=swept)
        except NigaoeError as error:
            log.warning("storage was not looked after: %s", error)
        except Exception:
            log.exception("storage was not looked after")
        await asyncio.sleep(ORPHANS_EVERY_S)


def _shown(document: JobDocument, request: Request) -> Job:
    result = None
    if document.answer is not None:
        pictures = [
            JobPicture(file=name, url=f"{request.base_url}v1/files/{name}", seed=image["seed"])
            for name, image in zip(document.files, document.answer["images"], strict=True)
        ]
        result = JobResult.model_validate(document.answer | {"images": pictures})
    return Job(
        id=document.id,
        status=document.status,
        created=int(document.created),
        started=None if document.started is None else int(document.started),
        finished=None if document.finished is None else int(document.finished),
        step=document.steps if document.status == "succeeded" else document.step,
        steps=document.steps,
        result=result,
        error=None if document.error is None else ErrorDetail.model_validate(document.error),
    )


def _problem(error: NigaoeError) -> Problem:
    if isinstance(error, UnknownObject):
        return Problem(404, "job_not_found", str(error), "name")
    return Problem(503, "storage_unavailable", str(error), retry_after_s=5)
