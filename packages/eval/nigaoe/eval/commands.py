"""`nigaoe eval` and `nigaoe promote`."""

from pathlib import Path
from typing import Annotated

import typer

from nigaoe.core.errors import ConfigError
from nigaoe.eval.default_command import DEFAULT, DefaultCommandGroup

eval_app = typer.Typer(
    cls=DefaultCommandGroup,
    help="Evaluate adapters, as `nigaoe eval CONFIG`, and compare what evaluations found.",
    subcommand_metavar="CONFIG [OVERRIDES]... | COMMAND [ARGS]...",
    no_args_is_help=True,
)


@eval_app.command(DEFAULT)
def evaluate(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/toy/eval.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, over what the file says.")] = None,
) -> None:
    """Generate and score in shards on Ray, then write a report; the same as `nigaoe eval CONFIG`."""
    from nigaoe.core.config import load_config
    from nigaoe.eval.config import EvalConfig

    settings = load_config(config, EvalConfig, overrides or [])
    from nigaoe.eval.job import run_evaluation
    from nigaoe.eval.pages.headlines import headline_texts
    from nigaoe.eval.protocols.make import make_protocol

    report = run_evaluation(settings)
    for flag in report.flags:
        typer.secho(f"doubtful: {flag}", fg=typer.colors.YELLOW)
    for headline in headline_texts(make_protocol(settings).headlines(), report):
        beside = "; ".join(filter(None, (headline.interval, headline.beside)))
        typer.echo(f"{headline.title}: {headline.figure} ({beside})")
    passed = len(report.thresholds) - len(report.misses)
    if report.thresholds:
        typer.echo(f"thresholds: {passed} of {len(report.thresholds)} reached")
    typer.echo(f"report: {settings.out / 'report.html'}")


@eval_app.command("compare")
def compare(
    a: Annotated[Path, typer.Argument(help="Folder of a finished run: what is held against.")],
    b: Annotated[Path, typer.Argument(help="Folder of another: what is looked at.")],
    cell: Annotated[
        list[str] | None, typer.Option(help="A cell of both, or one of each as a=b; all that both have when absent.")
    ] = None,
    metric: Annotated[list[str] | None, typer.Option(help="A figure; all that both have when absent.")] = None,
    json: Annotated[Path | None, typer.Option(help="File to write the comparison to as JSON.")] = None,
    html: Annotated[Path | None, typer.Option(help="File to write it to as a page, such as comparison.html.")] = None,
) -> None:
    """Hold two finished runs against each other, sample by sample, with intervals."""
    from nigaoe.core.atomic import write_whole
    from nigaoe.eval.findings.comparing_runs import RunsComparison, compare_runs, read_run, run_differences
    from nigaoe.eval.pages.comparison_page import print_comparison, write_comparison_page

    first, second = read_run(a), read_run(b)
    figures = compare_runs(first, second, _cells(cell), metric or ())
    differences = run_differences(first, second, figures)
    comparison = RunsComparison(first=first.where, second=second.where, differences=differences, figures=figures)
    print_comparison(comparison)
    if json is not None:
        write_whole(json, f"{comparison.model_dump_json(indent=2)}\n".encode())
        typer.echo(f"comparison: {json}")
    if html is not None:
        write_comparison_page(html, comparison)
        typer.echo(f"page: {html}")


@eval_app.command("export")
def export(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/toy/eval.yaml.")],
    out: Annotated[Path, typer.Argument(help="Folder to write into.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, over what the file says.")] = None,
) -> None:
    """Write references, prompts, seeds and file names for somebody else to draw, whose pictures `folders` scores."""
    from nigaoe.core.config import load_config
    from nigaoe.eval.config import EvalConfig
    from nigaoe.eval.export import export as run

    for folder in run(load_config(config, EvalConfig, overrides or []), out):
        typer.echo(f"orders: {folder / 'metadata.jsonl'}")


def promote(
    adapter: Annotated[str, typer.Argument(help="A file, the folder of a run, or an adapter of another registry.")],
    report: Annotated[Path, typer.Argument(help="Its report.json.")],
    gate: Annotated[Path, typer.Argument(help="YAML file of what it must reach, such as configs/demo/gate.yaml.")],
    registry: Annotated[str, typer.Option(help="Where servers read: a folder, or a bucket as s3://bucket/folder.")],
    name: Annotated[str | None, typer.Option(help="What servers call the adapter; its own name when absent.")] = None,
) -> None:
    """Publish an adapter if its report reaches what a file demands; exit with 2 and name every miss if not."""
    from nigaoe.eval.promoting import promote as run

    promoted = run(adapter, report, gate, registry, name)
    reached = f"{promoted.num_thresholds} of {promoted.num_thresholds} thresholds reached"
    typer.echo(f"promoted {promoted.where}: {reached}")


def _cells(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    cells: dict[str, str] = {}
    for pair in pairs:
        first, equals, second = pair.partition("=")
        if not first or (equals and not second) or first in cells:
            raise ConfigError(f"--cell {pair!r} is no cell of its own; give a name, or one of each run as a=b")
        cells[first] = second or first
    return cells
