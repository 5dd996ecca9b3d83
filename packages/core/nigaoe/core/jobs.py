"""What a command says of itself when it is to run as a job of a cluster. No Ray here.

Each package describes its own commands by the entry points `nigaoe.jobs`: functions of a config file and its overrides.
So whoever submits them needs to import none of them.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path

from nigaoe.core.errors import ConfigError


@dataclass(frozen=True)
class JobPlan:
    """A command as the cluster is to run it."""

    kind: str
    """Its name, as in `nigaoe <kind> CONFIG`."""
    name: str
    """Of the run, for people."""
    config: str
    """YAML as the cluster sees it: paths from the root, and the cluster that the job is on."""
    out: Path
    """Folder that it writes to, one job at a time."""
    results: tuple[str, ...]
    """Files in `out` that are worth bringing back, named in order of their worth."""
    variables: tuple[str, ...] = ()
    """Environment variables that it reads and that may be set here only, such as keys."""


Describe = Callable[[Path, Sequence[str]], JobPlan]


def job_kinds() -> list[str]:
    """Commands that can run as jobs."""
    return sorted({entry.name for entry in entry_points(group="nigaoe.jobs")})


def describe_job(kind: str, config: Path, overrides: Sequence[str] = ()) -> JobPlan:
    """A command as a job, from its config file, which is validated here.

    Raises:
        ConfigError: There is no such command, or its config is wrong.
    """
    found = [entry for entry in entry_points(group="nigaoe.jobs") if entry.name == kind]
    if not found:
        raise ConfigError(f"{kind!r} cannot run as a job; choose one of {', '.join(job_kinds())}")
    describe: Describe = found[0].load()
    return describe(config, overrides)
