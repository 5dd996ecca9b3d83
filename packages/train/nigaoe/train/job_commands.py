"""`nigaoe submit` and `nigaoe status`."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nigaoe.core.jobs import JobPlan
    from nigaoe.train.jobs.results import Result

Address = Annotated[str, typer.Option(help="Dashboard of the cluster's head node.", envvar="RAY_API_SERVER_ADDRESS")]
HERE = "http://127.0.0.1:8265"
_DEFAULT = "train"


def submit(
    what: Annotated[
        list[str],
        typer.Argument(
            metavar="[train|prepare|eval] CONFIG [OVERRIDES]...",
            help="The command, train when absent, its YAML config, and changes to it as key.path=value.",
        ),
    ],
    address: Address = HERE,
    code: Annotated[
        Path | None, typer.Option(help="Folder whose code the job runs, such as a checkout; the cluster's when absent.")
    ] = None,
    image: Annotated[str | None, typer.Option(help="Container image that the job runs in, with its code.")] = None,
    name: Annotated[str | None, typer.Option(help="Of the job; the run's, with date and time, when absent.")] = None,
    follow: Annotated[bool, typer.Option(help="Show the job's output until it ends, and end as it does.")] = True,
    fetch: Annotated[
        Path | None, typer.Option(help="Folder here that gets the job's small results: manifests, reports.")
    ] = None,
    env: Annotated[
        list[str] | None,
        typer.Option(help="Environment variable for the job, as NAME with its value here or NAME=value."),
    ] = None,
    entrypoint_cpus: Annotated[float | None, typer.Option(help="CPUs that the command itself asks for.", min=0)] = None,
    entrypoint_gpus: Annotated[float | None, typer.Option(help="GPUs that the command itself asks for.", min=0)] = None,
    entrypoint_memory_gib: Annotated[
        float | None, typer.Option(help="Memory that the command itself asks for.", min=0)
    ] = None,
    entrypoint_resource: Annotated[
        list[str] | None, typer.Option(help="Resource that the command itself asks for, as name=amount.")
    ] = None,
    entrypoint_label: Annotated[
        list[str] | None, typer.Option(help="Label of the node that the command runs on, as key=value.")
    ] = None,
) -> None:
    """Prepare, train or evaluate as a job of a Ray cluster.

    Paths are seen from the cluster: name folders that all its machines share.
    """
    from nigaoe.core.errors import ConfigError
    from nigaoe.train.jobs import submitting

    if fetch is not None and not follow:
        raise ConfigError("--fetch takes results out of the log as it is followed; leave --no-follow out")
    plan = _plan(what)
    baggage = submitting.Baggage(code, image, submitting.variables_named(env or ()), fetch is not None)
    entrypoint = submitting.Entrypoint(
        entrypoint_cpus,
        entrypoint_gpus,
        entrypoint_memory_gib,
        submitting.amounts("--entrypoint-resource", entrypoint_resource or ()),
        submitting.pairs("--entrypoint-label", entrypoint_label or ()),
    )
    job = submitting.submit(plan, address, baggage, entrypoint, submission_id=name)
    typer.echo(f"submitted job {job}; it goes on without this terminal")
    typer.echo(f"  follow: ray job logs --follow --address {address} {job}")
    typer.echo(f"  stop:   ray job stop --address {address} {job}")
    typer.echo(f"  writes: {plan.out}")
    if follow:
        _follow(address, job, plan, fetch)


def status(
    address: Address = HERE,
    as_json: Annotated[bool, typer.Option("--json", help="Print it as JSON, with everything.")] = False,
    shows_all: Annotated[bool, typer.Option("--all", help="Show all jobs that have ended, not the last ten.")] = False,
) -> None:
    """Say how a Ray cluster is: jobs of nigaoe and how far they are, what it serves, its nodes."""
    import json

    from rich.console import Console

    from nigaoe.train.jobs.status import cluster_state
    from nigaoe.train.jobs.status_table import print_state

    state = cluster_state(address)
    if as_json:
        typer.echo(json.dumps(state.as_json(), indent=2))
        return
    print_state(state, Console(), shows_all=shows_all)


def _plan(what: list[str]) -> "JobPlan":
    from nigaoe.core.errors import ConfigError
    from nigaoe.core.jobs import describe_job, job_kinds

    kind, rest = (what[0], what[1:]) if what[0] in job_kinds() else (_DEFAULT, what)
    if not rest:
        raise ConfigError(f"`nigaoe submit {kind}` needs a config; give the path of its YAML file")
    return describe_job(kind, Path(rest[0]), rest[1:])


def _follow(address: str, job: str, plan: "JobPlan", fetch: Path | None) -> None:
    from nigaoe.train.jobs.following import follow

    try:
        ended, results = follow(address, job, lambda lines: typer.echo(lines, nl=False))
    except KeyboardInterrupt:
        typer.echo(f"\nno longer following; job {job} goes on")
        return
    if fetch is not None and ended == 0:
        _bring(results, plan, fetch)
    typer.echo(f"job {job} {'succeeded' if ended == 0 else f'failed with exit code {ended}'}")
    raise typer.Exit(ended)


def _bring(results: "Mapping[str, Result]", plan: "JobPlan", folder: Path) -> None:
    """Write what came, and name what did not. A name that was not asked for is none of ours."""
    from nigaoe.core.errors import NigaoeError
    from nigaoe.train.jobs.results import save_results

    came = [results[name] for name in plan.results if name in results]
    for path in save_results(came, folder):
        typer.echo(f"fetched {path}")
    for result in came:
        if result.is_too_large:
            typer.echo(f"left {plan.out / result.name} on the cluster, for it has {result.size / 2**20:.0f} MiB")
    lost = [name for name in plan.results if name not in results or results[name].is_damaged]
    if lost:
        raise NigaoeError(f"{', '.join(lost)} did not come whole; the cluster has it in {str(plan.out)!r}")
