"""`nigaoe dataset check` and `nigaoe dataset split`."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from nigaoe.train.commands import ConfigPath, Overrides

if TYPE_CHECKING:
    from nigaoe.train.records.check_report import DatasetCheck

dataset_app = typer.Typer(help="Look at a dataset before it is trained on.", no_args_is_help=True)


@dataset_app.command("check")
def check(
    config: ConfigPath,
    overrides: Overrides = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write to; the config's data.prepared with -check behind it.")
    ] = None,
) -> None:
    """Look at every picture and caption, list the rows that cannot be used, and write a report."""
    from nigaoe.core.config import load_config
    from nigaoe.core.errors import DataError
    from nigaoe.train.config import TrainConfig
    from nigaoe.train.records.checking import check_dataset

    parsed = load_config(config, TrainConfig, overrides or ())
    # Beside the prepared folder, which may be removed and made anew; a config goes on naming the list.
    folder = out or parsed.data.prepared.with_name(f"{parsed.data.prepared.name}-check")
    report = check_dataset(parsed, folder)
    _print(report)
    typer.echo(f"report: {folder / 'report.html'}")
    left_out = report.rows - report.usable_rows
    if not report.usable_rows:
        raise DataError(f"no row of {report.source!r} can be used ({report.findings[0].reason}); mend the source")
    if left_out:
        typer.echo(
            f"{left_out:,} of {report.rows:,} rows cannot be used; train without them by "
            f"data.quarantine={folder / 'quarantine.jsonl'}"
        )
    else:
        typer.echo(f"all {report.rows:,} rows can be used; go on with `nigaoe dataset split` or `nigaoe prepare`")


@dataset_app.command("split")
def split(
    config: ConfigPath,
    out: Annotated[Path, typer.Option(help="File to write; it must not be there yet.")],
    overrides: Overrides = None,
    held_out: Annotated[float, typer.Option(help="Share of identities that are never trained on.")] = 0.02,
    seed: Annotated[int, typer.Option(help="Another seed, other people.")] = 0,
) -> None:
    """Choose people that are never trained on, with all their pictures, for validation and evaluation."""
    from nigaoe.core.config import load_config
    from nigaoe.core.errors import ConfigError
    from nigaoe.train.config import TrainConfig
    from nigaoe.train.records.reading import read_records
    from nigaoe.train.records.splitting import require_new, split_records, write_split

    parsed = load_config(config, TrainConfig, overrides or ())
    if not 0 < held_out < 1:
        raise ConfigError(f"--held-out {held_out:g} is no share; give a number between 0 and 1, such as 0.02")
    require_new(out)
    records = read_records(parsed.data)
    made = split_records(records, parsed.data.source, held_out, seed)
    write_split(made, out)
    if all(record.identity == record.key for record in records):
        typer.echo(
            "nobody said whose the pictures are: each counts as a person of its own, and pictures of one person may "
            f"be on both sides; a column {parsed.data.identity_column!r} says it"
        )
    if parsed.data.quarantine is None:
        typer.echo("data.quarantine is not given: copies of one picture may be on both sides")
    typer.echo(
        f"held out {len(made.held_out):,} of {made.identities:,} identities with {made.held_out_rows:,} of "
        f"{made.rows:,} rows; train without them by data.split={out}"
    )


def _print(report: "DatasetCheck") -> None:
    from rich.console import Console
    from rich.table import Table

    from nigaoe.train.records.findings import KINDS

    table = Table(title=f"{report.usable_rows:,} of {report.rows:,} rows can be used", title_justify="left")
    table.add_column("finding", no_wrap=True)
    table.add_column("count", justify="right")
    table.add_column("then", no_wrap=True)
    table.add_column("such as", overflow="ellipsis", no_wrap=True)
    first: dict[str, str] = {}
    for finding in report.findings:
        first.setdefault(finding.kind, finding.key)
    for name, kind in KINDS.items():
        if name in report.counts:
            table.add_row(kind.title, f"{report.counts[name]:,}", str(kind.severity), first[name])
    if report.counts:
        Console().print(table)
