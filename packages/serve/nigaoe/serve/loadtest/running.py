"""A load test from its first request to its report."""

import asyncio
import itertools
import os
import random
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn
from rich.table import Table

from nigaoe.core.errors import NigaoeError
from nigaoe.serve.loadtest.client import ask
from nigaoe.serve.loadtest.plot import latency_plot
from nigaoe.serve.loadtest.results import Group, LoadResult, Outcome, summarised
from nigaoe.serve.loadtest.workload import Closed, Open, Shot, Workload, shots

Told = Callable[[Outcome], None]


def run_and_report(workload: Workload, url: str, out: Path) -> LoadResult:
    """Run a load test with a bar, print a table, and write result.json and latency.svg into a folder.

    Raises:
        NigaoeError: Nobody answers at the address, or a picture cannot be read.
    """
    console = Console(stderr=True)
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True) as progress:
        task = progress.add_task("requests", total=workload.requests)
        failed = 0

        def told(outcome: Outcome) -> None:
            nonlocal failed
            failed += outcome.error is not None
            progress.update(task, advance=1, description=f"requests ({failed} failed)" if failed else "requests")

        result = asyncio.run(run(workload, url, told))
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(result.model_dump_json(indent=1) + "\n", encoding="utf-8")
    (out / "latency.svg").write_text(latency_plot(result), encoding="utf-8")
    Console().print(_table(result))
    for error, count in sorted(result.total.errors.items(), key=lambda item: -item[1]):
        typer.echo(f"{count} x {error}")
    typer.echo(f"wrote {out / 'result.json'} and {out / 'latency.svg'}")
    return result


async def run(workload: Workload, url: str, told: Told = lambda _: None) -> LoadResult:
    """Run a load test; `told` hears of each request as it ends.

    Raises:
        NigaoeError: Nobody answers at the address.
    """
    key = os.environ.get("NIGAOE_API_KEY")
    async with httpx.AsyncClient(
        base_url=url,
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=workload.timeout_s,
        # The test decides how many there are at once.
        limits=httpx.Limits(max_connections=None, max_keepalive_connections=None),
    ) as client:
        try:
            await client.get("/healthz", timeout=10)
        except httpx.HTTPError as error:
            raise NigaoeError(f"{url} does not answer ({type(error).__name__}); start the server first") from None
        plan = shots(workload)
        for shot in itertools.islice(plan, workload.warm_up):
            await ask(client, shot)
        outcomes: list[Outcome] = []

        def ended(outcome: Outcome) -> None:
            outcomes.append(outcome)
            told(outcome)

        began_s = time.monotonic()
        if isinstance(workload.load, Closed):
            await _closed(client, workload, workload.load, _bounded(plan, workload, began_s), began_s, ended)
        else:
            await _open(client, workload, workload.load, plan, began_s, ended)
        seconds = time.monotonic() - began_s
    outcomes.sort(key=lambda outcome: outcome.number)
    return summarised(outcomes, seconds, url, workload.model_dump(mode="json"))


async def _closed(
    client: httpx.AsyncClient, workload: Workload, load: Closed, plan: Iterator[Shot], began_s: float, told: Told
) -> None:
    async def worker() -> None:
        for shot in plan:
            await _timed(client, workload, shot, time.monotonic(), began_s, told)

    async with asyncio.TaskGroup() as tasks:
        for _ in range(load.concurrency):
            tasks.create_task(worker())


async def _open(
    client: httpx.AsyncClient, workload: Workload, load: Open, plan: Iterator[Shot], began_s: float, told: Told
) -> None:
    # Apart from the one that makes the requests: another rate leaves these as they are.
    chance = random.Random(f"arrivals {workload.seed}")
    due_s = began_s
    async with asyncio.TaskGroup() as tasks:
        for number in itertools.count():
            due_s += chance.expovariate(load.rate_per_s)
            late = workload.duration_s is not None and due_s - began_s > workload.duration_s
            if late or number == workload.requests:
                return
            await asyncio.sleep(max(0.0, due_s - time.monotonic()))
            tasks.create_task(_timed(client, workload, next(plan), due_s, began_s, told))


async def _timed(
    client: httpx.AsyncClient, workload: Workload, shot: Shot, due_s: float, began_s: float, told: Told
) -> None:
    try:
        async with asyncio.timeout(workload.timeout_s):
            images, error = await ask(client, shot)
    except TimeoutError:
        images, error = 0, "timeout"
    told(Outcome(shot.number, shot.kind.name, due_s - began_s, time.monotonic() - due_s, images, error))


def _bounded(plan: Iterator[Shot], workload: Workload, began_s: float) -> Iterator[Shot]:
    for shot in itertools.islice(plan, workload.requests):
        if workload.duration_s is not None and time.monotonic() - began_s > workload.duration_s:
            return
        yield shot


def _table(result: LoadResult) -> Table:
    rates = f"{result.images_per_s:.3g} images/s, {result.requests_per_s:.3g} requests/s over {result.seconds:.1f} s"
    table = Table(title=rates, title_justify="left")
    table.add_column("requests", no_wrap=True)
    for name in ("sent", "failed", "p50 s", "p95 s", "p99 s", "mean s", "most s"):
        table.add_column(name, justify="right")
    for group in [*result.kinds, result.total]:
        table.add_row(*_row(group), style="bold" if group is result.total else None)
    return table


def _row(group: Group) -> list[str]:
    figures = group.latency
    times = ["-"] * 5
    if figures is not None:
        times = [f"{value:.3g}" for value in (figures.p50, figures.p95, figures.p99, figures.mean, figures.most)]
    return [group.name, str(group.requests), str(group.requests - group.succeeded), *times]
