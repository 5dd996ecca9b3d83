"""Structured logs: one JSON object a line, each with the id of the request that it is about."""

import json
import logging
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import IO, Literal

_request_id: ContextVar[str | None] = ContextVar("nigaoe_request_id", default=None)
_OWN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "request_id", "taskName"}
"""What every record has; the rest is what a call gave as `extra`."""


@contextmanager
def bound(request_id: str | None) -> Iterator[None]:
    """Let everything that is logged inside carry this id, in this task or thread and in those that it starts."""
    token = _request_id.set(request_id)
    try:
        yield
    finally:
        _request_id.reset(token)


def current_request_id() -> str | None:
    """The id that is bound here."""
    return _request_id.get()


class RequestIdFilter(logging.Filter):
    """Writes the bound id onto each record, unless the call gave one."""

    def filter(self, record: logging.LogRecord) -> bool:
        if not hasattr(record, "request_id"):
            record.request_id = _request_id.get()
        return True


def _extra(record: logging.LogRecord) -> dict[str, object]:
    # Ray marks records with names that begin so.
    return {key: value for key, value in vars(record).items() if key not in _OWN and not key.startswith("_ray")}


class JsonFormatter(logging.Formatter):
    """One line: time (UTC), level, logger, message, request_id, what was given as `extra`, and the traceback."""

    def format(self, record: logging.LogRecord) -> str:
        moment = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
        line: dict[str, object] = {
            "time": f"{moment}.{int(record.msecs):03d}Z",
            "level": record.levelname,
            "logger": record.name,
            "message": record.getMessage(),
        }
        if (request_id := getattr(record, "request_id", None)) is not None:
            line["request_id"] = request_id
        line |= _extra(record)
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str, ensure_ascii=False)


class TextFormatter(logging.Formatter):
    """For people: as JSON's, in the order in which one reads."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(levelname)s %(name)s %(request_id)s: %(message)s", defaults={"request_id": "-"})

    def format(self, record: logging.LogRecord) -> str:
        first, *traceback = super().format(record).split("\n")
        return "\n".join([first + "".join(f" {key}={value}" for key, value in _extra(record).items()), *traceback])


def configure(log_format: Literal["json", "text"], level: int = logging.INFO, stream: IO[str] | None = None) -> None:
    """Let this process write nigaoe's own logs so, to stderr unless told otherwise; calling it again replaces that."""
    handler = logging.StreamHandler(stream or sys.stderr)
    handler.setFormatter(JsonFormatter() if log_format == "json" else TextFormatter())
    # On the handler: a logger's filter does not see what its children say.
    handler.addFilter(RequestIdFilter())
    logger = logging.getLogger("nigaoe")
    logger.handlers = [handler]
    logger.setLevel(level)
    logger.propagate = False
