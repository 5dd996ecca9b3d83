"""A run as a job of a cluster: its config and code go there, it is followed from here, and goes on without us."""

import asyncio
import logging
import os
import shlex
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

import yaml
from ray.job_submission import JobStatus, JobSubmissionClient

from nigaoe.core.errors import ConfigError, NigaoeError
from nigaoe.train.config import TrainConfig
from nigaoe.train.places import with_absolute_paths
from nigaoe.train.shipping.packing import CONFIG_NAME, pack
from nigaoe.train.watching.tracking import with_tracking_mode

RUN_KEY = "nigaoe.run"
"""Metadata of a job: folder of the run that it trains."""
_CONFIG_VARIABLE = "NIGAOE_TRAIN_CONFIG"
_TALKATIVE = (
    "ray.dashboard.modules.dashboard_sdk",
    "ray.dashboard.modules.job.sdk",
    "ray._private.runtime_env.packaging",
)
_OVERRIDING = ("RAY_ADDRESS", "RAY_API_SERVER_ADDRESS")


class JobRefused(NigaoeError):
    """The cluster did not take a job, or lost it."""


@dataclass(frozen=True)
class Job:
    """What a cluster is given."""

    submission_id: str
    entrypoint: str
    """Shell command."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)


def plan_job(config: TrainConfig, submission_id: str, folder: Path, code: Path | None, image: str | None) -> Job:
    """What to submit; fills `folder` with what the job takes along.

    Raises:
        ConfigError: Code and an image together, or code that is too large.
    """
    if image is not None and code is not None:
        raise ConfigError("--image brings its own code; leave --code out, or build an image with that code in it")
    config = _for_cluster(config)
    text = yaml.safe_dump(config.model_dump(mode="json"), sort_keys=False, allow_unicode=True)
    variables = _passed_on(config)
    metadata = {RUN_KEY: str(config.out), "nigaoe.name": config.name}
    if image is not None:
        # Ray lets an image have variables, and no working folder beside them.
        variables[_CONFIG_VARIABLE] = text
        path = f'"${{TMPDIR:-/tmp}}"/{shlex.quote(submission_id)}.yaml'
        command = f'printf %s "${_CONFIG_VARIABLE}" > {path} && nigaoe train {path}'
        return Job(submission_id, command, {"image_uri": image, "env_vars": variables}, metadata)
    pack(folder, text, code)
    command = f"nigaoe train {CONFIG_NAME}" if code is None else f"python -m nigaoe.core.cli train {CONFIG_NAME}"
    return Job(submission_id, command, {"working_dir": str(folder), "env_vars": variables}, metadata)


def submit(
    config: TrainConfig,
    address: str,
    *,
    code: Path | None = None,
    image: str | None = None,
    submission_id: str | None = None,
) -> str:
    """Hand a run to a cluster; returns the id of its job.

    Raises:
        ConfigError: No cluster answers, the run is under way already, or as `plan_job`.
        JobRefused: The cluster does not want it.
    """
    submission_id = submission_id or f"{config.name}-{datetime.now():%Y%m%d-%H%M%S}"
    client = connect(address)
    _require_not_running(client, config)
    with tempfile.TemporaryDirectory(prefix="nigaoe-job-") as folder:
        job = plan_job(config, submission_id, Path(folder), code, image)
        try:
            return client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=job.submission_id,
                runtime_env=job.runtime_env,
                metadata=job.metadata,
            )
        except (RuntimeError, ValueError) as error:
            raise JobRefused(
                f"the cluster at {address!r} did not take job {submission_id!r} ({_reason(error)})"
            ) from None


def follow(address: str, submission_id: str, write: Callable[[str], object]) -> int:
    """Write a job's log as it grows, until the job ends; returns its exit code, 0 where all went well.

    Raises:
        JobRefused: It was stopped, or the cluster lost it.
    """
    client = connect(address)
    try:
        asyncio.run(_tail(client, submission_id, write))
        details = client.get_job_info(submission_id)
    except (RuntimeError, OSError) as error:
        raise JobRefused(
            f"job {submission_id!r} cannot be followed any more ({_reason(error)}); it may go on without us: ask with "
            f"`ray job status --address {address} {submission_id}`"
        ) from None
    if details.status == JobStatus.SUCCEEDED:
        return 0
    if details.status == JobStatus.STOPPED:
        raise JobRefused(f"job {submission_id!r} was stopped; submit it again to go on from its last checkpoint")
    if details.driver_exit_code:
        return int(details.driver_exit_code)
    raise JobRefused(f"job {submission_id!r} failed ({_reason_of(details.message)})")


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
            f"no Ray dashboard answers at {address!r} ({_reason(error)}); give the address of the head node with the "
            f"port of its dashboard, as http://127.0.0.1:8265"
        ) from None


async def _tail(client: JobSubmissionClient, submission_id: str, write: Callable[[str], object]) -> None:
    async for lines in client.tail_job_logs(submission_id):
        write(lines)


def _for_cluster(config: TrainConfig) -> TrainConfig:
    """The config as it is meant over there: paths from the root, and the cluster that the job is on."""
    config = with_tracking_mode(with_absolute_paths(config))
    return config.model_copy(update={"cluster": config.cluster.model_copy(update={"address": "auto"})})


def _passed_on(config: TrainConfig) -> dict[str, str]:
    """Variables of this environment that the job needs."""
    key = os.environ.get("WANDB_API_KEY")
    return {"WANDB_API_KEY": key} if key and config.tracking.mode == "online" else {}


def _require_not_running(client: JobSubmissionClient, config: TrainConfig) -> None:
    out = str(config.out.resolve())
    for job in client.list_jobs():
        if (job.metadata or {}).get(RUN_KEY) == out and not job.status.is_terminal():
            raise ConfigError(
                f"run {config.name!r} is under way in {out!r} already, as job {job.submission_id!r}; stop that one, or "
                f"choose another name and out"
            )


@contextmanager
def _without(*names: str) -> Iterator[None]:
    """Hide variables, which Ray believes more than what it is told."""
    hidden = {name: os.environ.pop(name) for name in names if name in os.environ}
    try:
        yield
    finally:
        os.environ.update(hidden)


def _reason(error: Exception) -> str:
    return _reason_of(str(error)) or type(error).__name__


def _reason_of(text: str | None) -> str:
    lines = [line.strip() for line in (text or "").splitlines() if line.strip()]
    return lines[-1].rstrip(".") if lines else "no reason was given"
