"""A command as a job of a cluster: its config and code go there, and it goes on without us."""

import os
import re
import shlex
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from ray.job_submission import JobSubmissionClient

from nigaoe.core.errors import ConfigError
from nigaoe.core.jobs import JobPlan
from nigaoe.train.jobs.connecting import KIND_KEY, NAME_KEY, RUN_KEY, JobRefused, connect, reason
from nigaoe.train.jobs.packing import pack

_CONFIG_VARIABLE = "NIGAOE_JOB_CONFIG"
_FITS_AN_ID = re.compile(r"[^A-Za-z0-9._-]+")


@dataclass(frozen=True)
class Entrypoint:
    """What the command itself asks for, beside the workers that it starts; with nothing it runs on the head node."""

    cpus: float | None = None
    gpus: float | None = None
    memory_gib: float | None = None
    resources: dict[str, float] = field(default_factory=dict)
    labels: dict[str, str] = field(default_factory=dict)
    """Of the node that it may run on."""

    def options(self) -> dict[str, Any]:
        """As Ray calls them."""
        named = {
            "entrypoint_num_cpus": self.cpus,
            "entrypoint_num_gpus": self.gpus,
            "entrypoint_memory": None if self.memory_gib is None else int(self.memory_gib * 2**30),
            "entrypoint_resources": self.resources or None,
            "entrypoint_label_selector": self.labels or None,
        }
        return {name: value for name, value in named.items() if value is not None}


@dataclass(frozen=True)
class Baggage:
    """What a job takes along beside its config."""

    code: Path | None = None
    """Folder whose code it runs; the cluster's own when absent."""
    image: str | None = None
    """Container image that it runs in."""
    variables: dict[str, str] = field(default_factory=dict)
    """Of its environment, over those that it is known to need."""
    brings_results: bool = False
    """Whether its small results come back in its log."""


@dataclass(frozen=True)
class Job:
    """What a cluster is given."""

    submission_id: str
    entrypoint: str
    """Shell command."""
    runtime_env: dict[str, Any]
    metadata: dict[str, str] = field(default_factory=dict)


def make_job(plan: JobPlan, submission_id: str, folder: Path, baggage: Baggage) -> Job:
    """What to submit; fills `folder` with what the job takes along.

    Raises:
        ConfigError: Code and an image together, or code that is too large.
    """
    code, image = baggage.code, baggage.image
    if image is not None and code is not None:
        raise ConfigError("--image brings its own code; leave --code out, or build an image with that code in it")
    variables = {name: os.environ[name] for name in plan.variables if name in os.environ} | baggage.variables
    metadata = {KIND_KEY: plan.kind, NAME_KEY: plan.name, RUN_KEY: str(plan.out)}
    if image is not None:
        # Ray lets an image have variables, and no working folder beside them.
        variables[_CONFIG_VARIABLE] = plan.config
        path = f'"${{TMPDIR:-/tmp}}"/{shlex.quote(submission_id)}.yaml'
        command = f'printf %s "${_CONFIG_VARIABLE}" > {path} && nigaoe {plan.kind} {path}'
        runtime_env = {"image_uri": image, "env_vars": variables}
        return Job(submission_id, command + _results(plan, baggage), runtime_env, metadata)
    config = f"{plan.kind}.yaml"
    pack(folder, config, plan.config, code)
    command = f"nigaoe {plan.kind} {config}" if code is None else f"python -m nigaoe.core.cli {plan.kind} {config}"
    runtime_env = {"working_dir": str(folder), "env_vars": variables}
    return Job(submission_id, command + _results(plan, baggage), runtime_env, metadata)


def submit(
    plan: JobPlan,
    address: str,
    baggage: Baggage,
    entrypoint: Entrypoint,
    *,
    submission_id: str | None = None,
) -> str:
    """Hand a command to a cluster; returns the id of its job.

    Raises:
        ConfigError: No cluster answers, another job writes to its folder, or as `make_job`.
        JobRefused: The cluster does not want it.
    """
    submission_id = submission_id or _named(plan)
    client = connect(address)
    _require_not_running(client, plan)
    with tempfile.TemporaryDirectory(prefix="nigaoe-job-") as folder:
        job = make_job(plan, submission_id, Path(folder), baggage)
        try:
            return client.submit_job(
                entrypoint=job.entrypoint,
                submission_id=job.submission_id,
                runtime_env=job.runtime_env,
                metadata=job.metadata,
                **entrypoint.options(),
            )
        except (RuntimeError, ValueError) as error:
            raise JobRefused(
                f"the cluster at {address!r} did not take job {submission_id!r} ({reason(error)})"
            ) from None


def variables_named(settings: Sequence[str]) -> dict[str, str]:
    """Environment variables as `NAME=value`, or as `NAME` with the value that it has here.

    Raises:
        ConfigError: One has no value here.
    """
    found = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals and name not in os.environ:
            raise ConfigError(f"--env {name!r} is not set here; set it, or give it a value as {name}=value")
        found[name] = value if equals else os.environ[name]
    return found


def pairs(option: str, settings: Sequence[str]) -> dict[str, str]:
    """Settings of the form `key=value`.

    Raises:
        ConfigError: One is not.
    """
    split = [setting.partition("=") for setting in settings]
    for key, equals, value in split:
        if not key or not equals or not value:
            raise ConfigError(f"{option} {key + equals + value!r} is not of the form key=value")
    return {key: value for key, _, value in split}


def amounts(option: str, settings: Sequence[str]) -> dict[str, float]:
    """Settings of the form `name=amount`.

    Raises:
        ConfigError: One is not.
    """
    found = {}
    for name, value in pairs(option, settings).items():
        try:
            found[name] = float(value)
        except ValueError:
            raise ConfigError(f"{option} {name}={value} is no amount; write a number, as {name}=1") from None
    return found


def _results(plan: JobPlan, baggage: Baggage) -> str:
    """What follows the command where it succeeded; the exit code of one that failed stays its own."""
    if not baggage.brings_results:
        return ""
    return f" && python -m nigaoe.train.jobs.results {shlex.join([str(plan.out), *plan.results])}"


def _named(plan: JobPlan) -> str:
    name = _FITS_AN_ID.sub("-", plan.name)
    prefix = "" if plan.kind in ("train", name) else f"{plan.kind}-"
    return f"{prefix}{name}-{datetime.now():%Y%m%d-%H%M%S}"


def _require_not_running(client: JobSubmissionClient, plan: JobPlan) -> None:
    for job in client.list_jobs():
        if (job.metadata or {}).get(RUN_KEY) == str(plan.out) and not job.status.is_terminal():
            raise ConfigError(
                f"{plan.kind} {plan.name!r} is under way in {str(plan.out)!r} already, as job {job.submission_id!r}; "
                f"stop that one, or choose another name and folder"
            )
