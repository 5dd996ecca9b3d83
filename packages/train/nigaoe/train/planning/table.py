"""A plan as a person reads it in a terminal of 80 columns."""

from collections.abc import Iterator, Mapping
from typing import Any

import yaml
from pydantic import BaseModel
from pydantic_core import to_jsonable_python
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from nigaoe.train.config import TrainConfig
from nigaoe.train.planning.devices import GIB, Device
from nigaoe.train.planning.plan import USUAL_SHARE, TrainingPlan, largest_micro_batch


def print_plan(plan: TrainingPlan, device: Device | None, console: Console | None = None) -> None:
    """Print every key of the config and what the run takes; how long, and how much would fit, on a device if given."""
    console = console or Console(highlight=False)
    console.print(_config_table(plan.config))
    for title, rows in (
        (f"Run {plan.config.name!r}", _run(plan)),
        ("Memory of a worker", _memory(plan)),
        ("Cost", {**_cost(plan), **(_on_device(plan, device) if device else {})}),
    ):
        console.print()
        console.print(_rows(title, rows))


def settings(config: BaseModel, prefix: str = "") -> Iterator[tuple[str, Any, bool]]:
    """(key.path, value, differs from the default) of every leaf of a config."""
    for name, field in type(config).model_fields.items():
        value, key = getattr(config, name), f"{prefix}{name}"
        if isinstance(value, BaseModel):
            yield from settings(value, f"{key}.")
        else:
            yield key, value, field.is_required() or value != field.get_default(call_default_factory=True)


def duration(seconds: float) -> str:
    """In the two largest units that it has."""
    for unit, size, name, smaller in ((86400, 3600, "d", "h"), (3600, 60, "h", "min"), (60, 1, "min", "s")):
        if seconds >= unit:
            whole, rest = divmod(round(seconds / size), unit // size)
            return f"{whole} {name} {rest} {smaller}"
    return f"{seconds:.0f} s" if seconds >= 10 else f"{seconds:.2g} s"


def size(count: float) -> str:
    """Bytes in the unit that fits."""
    for unit, name in ((GIB, "GiB"), (2**20, "MiB"), (2**10, "KiB")):
        if count >= unit:
            return f"{count / unit:.{1 if count < 100 * unit else 0}f} {name}"
    return f"{count:.0f} bytes"


def _config_table(config: TrainConfig) -> Table:
    table = _table("Config (*: not the default)")
    for key, value, is_changed in settings(config):
        text = escape(_yaml(value))
        table.add_row(
            f"* [bold]{key}[/bold]" if is_changed else f"  {key}", f"[bold]{text}[/bold]" if is_changed else text
        )
    return table


def _yaml(value: Any) -> str:
    text = str(yaml.safe_dump(to_jsonable_python(value), default_flow_style=True, width=1000, allow_unicode=True))
    return text.removesuffix("...\n").strip()


def _run(plan: TrainingPlan) -> Mapping[str, str]:
    config, workers = plan.config, plan.config.cluster.num_workers
    tokens = f"{plan.num_tokens} tokens" if plan.num_tokens else "a token per patch"
    frozen = ", ".join(f"{name} {count / 1e6:,.1f} M" for name, count in plan.frozen.items())
    if plan.rows is not None:
        data = f"{plan.rows:,} prepared rows, each seen {plan.epochs:,.1f} times"
    else:
        data = "not prepared yet" if config.data.cached else "encoded anew in every step"
    parts = " x ".join(
        [f"{workers} worker{'s' if workers > 1 else ''}", f"{plan.micro_batch} at once"]
        + ([f"{plan.accumulation} times"] if plan.accumulation > 1 else [])
    )
    return {
        "adapter": f"{config.adapter.variant}, {tokens}, {plan.trainable:,} parameters",
        "base": f"{config.base} at {plan.resolution_px} px",
        "frozen": frozen,
        "data": data,
        "steps": f"{config.steps:,} of {config.batch_size:,} samples ({parts})",
        "samples": f"{plan.samples:,}",
    }


def _memory(plan: TrainingPlan) -> Mapping[str, str]:
    activations = plan.activations.at(plan.micro_batch)
    each = size(plan.activations.sample_bytes)
    rows = {name: size(count) for name, count in plan.fixed_memory.items()}
    rows["activations"] = f"{size(activations)} ({each} a sample)"
    return {**rows, "together": f"[bold]{size(plan.memory_bytes)}[/bold]"}


def _cost(plan: TrainingPlan) -> Mapping[str, str]:
    flops = plan.flops
    compute = f"{(plan.flops_per_sample + flops.again) / 1e9:,.1f} GFLOP a sample"
    compute += f", {flops.again / 1e9:,.1f} of them for the second time" if flops.again else ""
    checkpoint = " + ".join(f"{name} {size(count)}" for name, count in plan.checkpoint.items())
    return {"compute": compute, "checkpoint": f"{size(sum(plan.checkpoint.values()))} = {checkpoint}"}


def _on_device(plan: TrainingPlan, device: Device) -> Mapping[str, str]:
    workers, largest = plan.config.cluster.num_workers, largest_micro_batch(plan, device.memory_bytes)
    on = f"{device.name}" if workers == 1 else f"{workers} {device.name}"
    return {
        "largest micro-batch": f"about {largest:,} in the {device.memory_gib:.0f} GiB of {device.name}",
        "time": f"{duration(plan.seconds_on(device))} at {USUAL_SHARE:.0%} of the peak of {on}",
    }


def _rows(title: str, rows: Mapping[str, str]) -> Table:
    table = _table(title)
    for name, text in rows.items():
        table.add_row(name, text)
    return table


def _table(title: str) -> Table:
    table = Table(
        title=title, title_justify="left", title_style="bold", show_header=False, box=None, padding=(0, 2, 0, 0)
    )
    table.add_column(no_wrap=True, min_width=25)
    table.add_column(overflow="fold")
    return table
