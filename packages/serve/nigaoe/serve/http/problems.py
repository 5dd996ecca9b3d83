"""Failures as HTTP: the one place that chooses status codes, and the shape that OpenAI clients read."""

import logging
from typing import Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, ValidationError
from starlette.exceptions import HTTPException

from nigaoe.core.errors import ImageError, NigaoeError

log = logging.getLogger(__name__)

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
        self, status: int, code: str, message: str, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.status, self.code, self.message, self.param, self.retry_after_s = (
            status,
            code,
            message,
            param,
            retry_after_s,
        )


def unknown_name(kind: str, name: str, known: list[str]) -> Problem:
    """404 for a model, base or adapter that this server does not have."""
    has = f"it has {', '.join(known)}" if known else "it has none"
    return Problem(404, "model_not_found", f"{kind} {name!r} is not on this server; {has}", kind)


def invalid_field(error: ValidationError, model: type[BaseModel]) -> Problem:
    """400 for the first field that a schema refuses."""
    first = error.errors()[0]
    name = str(first["loc"][0]) if first["loc"] else None
    if first["type"] == "missing":
        return Problem(400, "missing_required_parameter", f"{name} is missing; add it", name)
    if first["type"] == "extra_forbidden":
        known = ", ".join(model.model_fields)
        return Problem(400, "unknown_parameter", f"unknown field {name!r}; known fields are: {known}", name)
    value = repr(first["input"])
    value = value if len(value) <= 60 else f"{value[:57]}..."
    reason = first["msg"][0].lower() + first["msg"][1:]
    return Problem(400, "invalid_value", f"{name or 'the body'} {value} is not valid: {reason}", name)


def install(app: FastAPI) -> None:
    """Let an application answer every failure in the one shape."""

    @app.exception_handler(Problem)
    async def problem(_: Request, error: Problem) -> JSONResponse:
        return _answer(error)

    @app.exception_handler(NigaoeError)
    async def refused(_: Request, error: NigaoeError) -> JSONResponse:
        if isinstance(error, ImageError):
            return _answer(Problem(400, "invalid_image", str(error), "image"))
        return _answer(Problem(400, "invalid_value", str(error)))

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> JSONResponse:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        return _answer(Problem(400, "invalid_value", f"{where} is not valid: {first['msg']}", where))

    @app.exception_handler(HTTPException)
    async def http(request: Request, error: HTTPException) -> JSONResponse:
        code, message = f"http_{error.status_code}", str(error.detail)
        if error.status_code == 404:
            code, message = (
                "unknown_route",
                f"{request.url.path!r} is not a route of this server; see /docs for those it has",
            )
        elif error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "another method")
            code, message = "method_not_allowed", f"{request.method} {request.url.path} is not possible; use {allowed}"
        answer = _answer(Problem(error.status_code, code, message))
        answer.headers.update(error.headers or {})
        return answer

    @app.exception_handler(Exception)
    async def internal(request: Request, error: Exception) -> JSONResponse:
        log.error("request failed", exc_info=error, extra={"path": request.url.path})
        return _answer(Problem(500, "internal_error", "the server failed on this request; its log says why"))


def _answer(problem: Problem) -> JSONResponse:
    kind: ErrorType = "invalid_request_error"
    if problem.status == 429:
        kind = "rate_limit_error"
    elif problem.status >= 500:
        kind = "server_error"
    detail = ErrorDetail(message=problem.message, type=kind, param=problem.param, code=problem.code)
    headers = {} if problem.retry_after_s is None else {"Retry-After": str(problem.retry_after_s)}
    return JSONResponse(ErrorBody(error=detail).model_dump(), problem.status, headers)
