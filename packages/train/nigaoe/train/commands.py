"""`nigaoe prepare`, `train`, `publish` and `sweep`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from nigaoe.train.config import TrainConfig

ConfigPath = Annotated[Path, typer.Argument(help="A YAML config.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to it, as key.path=value.")]


def prepare(config: ConfigPath, overrides: Overrides = None) -> None:
    """Encode a folder of pictures and captions once, so that training need not."""
    from nigaoe.core.config import load_config
    from nigaoe.train.config import TrainConfig
    from nigaoe.train.preparing.prepare import prepare as run

    parsed = load_config(config, TrainConfig, overrides or ())
    manifest = run(parsed)
    shapes = ", ".join(f"{bucket.rows} of {bucket.width}x{bucket.height} px" for bucket in manifest.buckets)
    held_out = f"; {manifest.held_out_rows} held out" if manifest.held_out_rows else ""
    typer.echo(
        f"prepared {manifest.rows} images of {manifest.identities} identities in {parsed.data.prepared} "
        f"({shapes}{held_out})"
    )


def train(
    config: ConfigPath,
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print what the run will take, and do not run.")] = False,
    device: Annotated[
        str | None, typer.Option(help="With --dry-run: GPU to plan for, such as h100; the one here when absent.")
    ] = None,
) -> None:
    """Train an adapter on a Ray cluster; the same name goes on where it stopped."""
    from nigaoe.core.config import load_config
    from nigaoe.train.config import TrainConfig

    parsed = load_config(config, TrainConfig, overrides or ())
    if dry_run:
        _show_plan(parsed, device)
        return
    from nigaoe.train.running.job import train as run

    adapter = run(parsed)
    typer.echo(f"trained {parsed.steps} steps; the adapter is {adapter}")


def publish(
    out: Annotated[Path, typer.Argument(help="Folder of a finished run.")],
    to: Annotated[str, typer.Option(help="Registry: a folder, or a bucket as s3://bucket/folder.")],
    name: Annotated[str | None, typer.Option(help="What servers call the adapter; the run's when absent.")] = None,
) -> None:
    """Copy a finished adapter, with all that it came from, to where servers find it."""
    from nigaoe.train.shipping.publish import publish_run

    place = publish_run(out, to, name)
    called = place.partition("?")[0].rpartition("/")[2]
    typer.echo(f"published {place}")
    typer.echo(f"  serve: nigaoe serve CONFIG adapters.{called}={place}")


def sweep(
    config: Annotated[Path, typer.Argument(help="A YAML file of a training config and a grid.")],
    overrides: Overrides = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say which runs there are, and run none.")] = False,
) -> None:
    """Train once for each combination of what is varied, and compare: one table, one grid of pictures."""
    from nigaoe.core.config import load_config
    from nigaoe.core.errors import NigaoeError
    from nigaoe.train.sweeping.cells import SweepConfig, expand
    from nigaoe.train.sweeping.page import PAGE_FILE, print_sweep
    from nigaoe.train.sweeping.sweep import is_trained
    from nigaoe.train.sweeping.sweep import sweep as run

    parsed = load_config(config, SweepConfig, overrides or ())
    if dry_run:
        for cell in expand(parsed):
            scales = ", ".join(f"{scale:g}" for scale in cell.scales)
            typer.echo(f"{cell.name}: {'trained' if is_trained(cell) else 'to be trained'}, at scale {scales}")
        return
    report = run(parsed, typer.echo)
    print_sweep(report)
    typer.echo(f"report: {parsed.out / PAGE_FILE}")
    if report.failures:
        name, reason = next(iter(report.failures.items()))
        raise NigaoeError(
            f"{len(report.failures)} of {len({row.cell for row in report.rows})} runs failed, such as {name!r} "
            f"({reason}); run it again to go on with what is missing"
        )


def _show_plan(config: "TrainConfig", named: str | None) -> None:
    from nigaoe.train.planning.devices import known_device, visible_device
    from nigaoe.train.planning.plan import does_not_fit, largest_micro_batch, plan
    from nigaoe.train.planning.table import print_plan

    device = known_device(named) if named else visible_device()
    if device is None and config.cluster.use_gpu:
        device = known_device("h100")
    planned = plan(config)
    print_plan(planned, device)
    if device is not None and planned.micro_batch > largest_micro_batch(planned, device.memory_bytes):
        raise does_not_fit(planned, device.memory_bytes)
