"""Failures as HTTP: the one place that chooses status codes, and the shape that OpenAI clients read."""

import logging
from collections.abc import Mapping
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from nigaoe.core.errors import DataError, ImageError, NigaoeError

log = logging.getLogger(__name__)

STORAGE_RETRY_S = 5

ErrorType = Literal["invalid_request_error", "rate_limit_error", "server_error"]


class ErrorDetail(BaseModel):
    """What went wrong, and where."""

    message: str
    type: ErrorType
    param: str | None = None
    code: str | None = None


class ErrorBody(BaseModel):
    """The body of every answer that is not a success."""

    error: ErrorDetail


class Problem(Exception):
    """A request that ends without pictures."""

    def __init__(
        self,
        status: int,
        code: str,
        message: str,
        param: str | None = None,
        retry_after_s: int | None = None,
        *,
        should_retry: bool | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        """`should_retry`: what OpenAI's clients are told; None leaves them to their own rule, which retries 5xx."""
        super().__init__(message)
        self.status, self.code, self.message, self.param = status, code, message, param
        self.headers = dict(headers or {})
        if retry_after_s is not None:
            self.headers["Retry-After"] = str(retry_after_s)
        if should_retry is not None:
            self.headers["x-should-retry"] = str(should_retry).lower()

    @property
    def body(self) -> ErrorBody:
        """As clients read it."""
        kind: ErrorType = "invalid_request_error"
        if self.status == 429:
            kind = "rate_limit_error"
        elif self.status >= 500:
            kind = "server_error"
        return ErrorBody(error=ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code))

    def answer(self) -> JSONResponse:
        """As HTTP."""
        return JSONResponse(self.body.model_dump(), self.status, self.headers)


FAILURES: dict[int | str, dict[str, Any]] = {
    code: {"model": ErrorBody} for code in (400, 401, 403, 404, 408, 413, 415, 429, 431, 500, 503, 504)
}
"""For the documentation of routes."""


def unknown_name(kind: str, name: str, known: list[str]) -> Problem:
    """404 for a model, base or adapter that this server does not have."""
    has = f"it has {', '.join(known)}" if known else "it has none"
    return Problem(404, "model_not_found", f"{kind} {name[:80]!r} is not on this server; {has}", kind)


def invalid_value(param: str | None, message: str) -> Problem:
    """400 for a field that cannot be what it is."""
    return Problem(400, "invalid_value", message, param)


def invalid_field(error: ValidationError, model: type[BaseModel]) -> Problem:
    """400 for the first field that a schema refuses."""
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])[:80] or None
    if first["type"] == "missing":
        return Problem(400, "missing_required_parameter", f"{name} is missing; add it", name)
    if first["type"] == "extra_forbidden":
        beside = "" if len(first["loc"]) > 1 else f"; known fields are: {', '.join(model.model_fields)}"
        return Problem(400, "unknown_parameter", f"unknown field {name!r}{beside}", name)
    value = repr(first["input"])
    value = value if len(value) <= 60 else f"{value[:57]}..."
    reason = first["msg"].removeprefix("Value error, ")
    return invalid_value(name, f"{name or 'the body'} {value} is not valid: {reason[0].lower()}{reason[1:]}")


def of_nigaoe(error: NigaoeError, param: str | None = None) -> Problem:
    """400 for what our own code refuses; 503 where the storage of a server is at fault."""
    if isinstance(error, DataError):
        return Problem(503, "storage_unavailable", str(error), retry_after_s=STORAGE_RETRY_S)
    if isinstance(error, ImageError):
        return Problem(400, "invalid_image", str(error), param or "image")
    return invalid_value(param, str(error))


def internal_problem() -> Problem:
    """500 that tells nothing; running it again would fail again, three times as dearly."""
    message = "the server failed on this request; its log says why, under this request id"
    return Problem(500, "internal_error", message, should_retry=False)


def install(app: FastAPI) -> None:
    """Let an application answer every failure that it knows in the one shape; `Front` answers the others."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return error.answer()

    @app.exception_handler(NigaoeError)
    async def refused(_: Request, error: NigaoeError) -> JSONResponse:
        return of_nigaoe(error).answer()

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"][1:]) or str(first["loc"][0])
        return invalid_value(where, f"{where} is not valid: {first['msg']}").answer()

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code, message = f"http_{error.status_code}", str(error.detail)
        if error.status_code == 404:
            path = request.url.path[:200]
            code, message = "unknown_route", f"{path!r} is not a route of this server; see /docs for those it has"
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            path = request.url.path[:200]
            code, message = "method_not_allowed", f"{request.method} {path} is not possible; use {allowed}"
        return Problem(error.status_code, code, message, headers=error.headers).answer()
