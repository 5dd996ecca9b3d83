"""The `nigaoe` command. Each package brings its own commands by entry point; core never imports them."""

import logging
import sys
from importlib.metadata import entry_points
from pathlib import Path
from typing import Annotated

import typer

from nigaoe.core.adapter_commands import adapter_app
from nigaoe.core.errors import NigaoeError
from nigaoe.core.reports import read_report

app = typer.Typer(
    help="Train, serve and evaluate image-prompt adapters for Stable Diffusion on Ray.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
report_app = typer.Typer(help="Read evaluation reports.", no_args_is_help=True)
toy_app = typer.Typer(help="The embedded toy world.", no_args_is_help=True)
app.add_typer(adapter_app, name="adapter")
app.add_typer(report_app, name="report")
app.add_typer(toy_app, name="toy")


@report_app.command("check")
def report_check(path: Annotated[Path, typer.Argument(help="A report.json.")]) -> None:
    """Exit with 2 and name them if a report misses thresholds of its own."""
    report = read_report(path)
    if report.misses:
        missed = "; ".join(f"{t.cell} {t.metric} is {t.value:.3f}, needed {t.at} {t.bound:g}" for t in report.misses)
        raise NigaoeError(f"{path} misses {len(report.misses)} of {len(report.thresholds)} thresholds: {missed}")
    typer.echo(f"{path}: all {len(report.thresholds)} thresholds reached")


@report_app.command("show")
def report_show(path: Annotated[Path, typer.Argument(help="A report.json.")]) -> None:
    """Print the figures of a report, one condition a line."""
    from rich.console import Console
    from rich.table import Table

    report = read_report(path)
    # As many as fit a terminal of 80 columns; report.html has all.
    metrics = ["attribute.mean", "attribute.skin", "attribute.hair", "attribute.headwear", "judged_anime"]
    shown = [m for m in metrics if any(m in cell.metrics for cell in report.cells)]
    table = Table(title=report.title)
    table.add_column("cell", no_wrap=True)
    for name in [*shown, "n"]:
        table.add_column(name.removeprefix("attribute."), justify="right")
    for cell in report.cells:
        figures = [f"{cell.metrics[m].value:.3f}" if m in cell.metrics else "" for m in shown]
        table.add_row(cell.name, *figures, str(cell.n))
    Console().print(table)


@toy_app.command("portraits")
def toy_portraits(
    out: Annotated[Path, typer.Argument(help="Folder to write JPEG files and captions.csv into.")],
    people: Annotated[int, typer.Option(help="How many people.", min=1)] = 1000,
    scenes: Annotated[int, typer.Option(help="Photos of each person.", min=1)] = 2,
    split: Annotated[str, typer.Option(help="train, validation or heldout.")] = "train",
    seed: Annotated[int, typer.Option(help="Another seed, other people.")] = 0,
) -> None:
    """Write portraits of toy people as an ordinary dataset: JPEG files and a CSV of captions."""
    from nigaoe.core.toy.portraits import write_portraits

    count = write_portraits(out, people=people, scenes=scenes, split=split, seed=seed)
    typer.echo(f"wrote {count} portraits of {people} people and captions.csv to {out}")


def main() -> None:
    """Run a command; a failure that the user can mend is one sentence and exit code 2."""
    for entry in entry_points(group="nigaoe.commands"):
        command = entry.load()
        if isinstance(command, typer.Typer):
            app.add_typer(command, name=entry.name)
        else:
            app.command(entry.name)(command)
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    try:
        app()
    except NigaoeError as error:
        typer.secho(f"nigaoe: {error}", err=True, fg=typer.colors.RED)
        sys.exit(2)
    except ModuleNotFoundError as error:
        if (error.name or "nigaoe").startswith("nigaoe"):
            raise
        cure = "install it with `pip install 'nigaoe[all]'`"
        typer.secho(f"nigaoe: this command needs the package {error.name!r}; {cure}", err=True, fg=typer.colors.RED)
        sys.exit(2)


if __name__ == "__main__":
    main()
