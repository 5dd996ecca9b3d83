"""The state of a cluster as one table that fits 80 columns."""

from collections.abc import Iterator

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table

from nigaoe.train.jobs.status import ClusterState, DeploymentState, JobState, NodeState

SHOWN_ENDED = 10
"""Jobs that have ended; `--all` shows the rest."""
_UNITS = ((86400, "d"), (3600, "h"), (60, "min"))


def print_state(state: ClusterState, console: Console, *, shows_all: bool = False) -> None:
    """Jobs, then what is served, then nodes."""
    table = Table(box=SIMPLE_HEAD, pad_edge=False, padding=(0, 1, 0, 0))
    table.add_column("kind", no_wrap=True)
    table.add_column("id", overflow="fold")
    table.add_column("name", overflow="fold")
    table.add_column("state", no_wrap=True)
    table.add_column("age", no_wrap=True, justify="right")
    table.add_column("progress")
    jobs, hidden = _shown(state.jobs, shows_all)
    for job in jobs:
        table.add_row(job.kind, job.id, job.name, job.state, age(job.age_s), _progress(job))
    table.add_section()
    for deployment in state.deployments:
        table.add_row("serve", *_served(deployment))
    table.add_section()
    for node in state.nodes:
        table.add_row("node", node.address, "head" if node.is_head else "worker", node.state, *_node(node))
    # Ids in brackets would be read as styles.
    console.print(table, markup=False)
    if hidden:
        console.print(f"{hidden} more jobs have ended; --all shows them", markup=False)
    for job in jobs:
        if job.reason is not None:
            console.print(f"{job.id}: {job.reason}", markup=False)


def age(seconds: float | None) -> str:
    """As `3 d`, in the largest unit of which there is one."""
    if seconds is None:
        return ""
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds / size:.0f} {unit}"
    return f"{max(0.0, seconds):.0f} s"


def _shown(jobs: list[JobState], shows_all: bool) -> tuple[list[JobState], int]:
    running = [job for job in jobs if job.took_s is None]
    ended = [job for job in jobs if job.took_s is not None]
    kept = ended if shows_all else ended[:SHOWN_ENDED]
    return [*running, *kept], len(ended) - len(kept)


def _progress(job: JobState) -> str:
    bar = job.progress
    so_far = "" if bar is None else f"{bar.done} of {bar.total} ({bar.done / max(bar.total, 1):.0%})"
    if bar is not None and bar.what and not bar.what.startswith(job.kind):
        so_far = f"{bar.what}: {so_far}"
    return so_far if job.took_s is None else ", ".join(filter(None, (so_far, f"took {age(job.took_s)}")))


def _served(deployment: DeploymentState) -> Iterator[str]:
    yield deployment.application
    yield deployment.name
    yield deployment.state
    yield age(deployment.age_s)
    yield f"{deployment.replicas} of {deployment.wanted} replicas"


def _node(node: NodeState) -> Iterator[str]:
    yield age(node.age_s)
    used = {"CPU": (node.cpus_used, node.cpus), "GPU": (node.gpus_used, node.gpus)}
    yield ", ".join(_amount(kind, *pair) for kind, pair in used.items() if kind == "GPU" or pair[1])


def _amount(kind: str, used: float | None, total: float) -> str:
    return f"{total:g} {kind}" if used is None or not total else f"{used:g} of {total:g} {kind}"
