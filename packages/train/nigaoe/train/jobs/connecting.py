"""The dashboard of a cluster, which takes jobs and says how they are."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray.job_submission import JobSubmissionClient

from nigaoe.core.errors import ConfigError, NigaoeError

KIND_KEY, NAME_KEY, RUN_KEY = "nigaoe.kind", "nigaoe.name", "nigaoe.run"
"""Metadata of a job: its command, the name of its run, the folder that it writes to."""
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


class JobRefused(NigaoeError):
    """The cluster did not take a job, or lost it."""


def connect(address: str) -> JobSubmissionClient:
    """A client of the cluster whose dashboard is at an address.

    Raises:
        ConfigError: None answers there.
    """
    for name in _TALKATIVE:
        logging.getLogger(name).setLevel(logging.WARNING)
    try:
        with _without(*_OVERRIDING):
            return JobSubmissionClient(address)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ConfigError(
            f"no Ray dashboard answers at {address!r} ({reason(error)}); give the address of the head node with the "
            f"port of its dashboard, as http://127.0.0.1:8265"
        ) from None


def reason(error: Exception) -> str:
    """What went wrong, in a line."""
    return last_line(str(error)) or type(error).__name__


def last_line(text: str | None) -> str:
    """The last line that says anything."""
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason was given"


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide variables, which Ray believes more than what it is told."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)
