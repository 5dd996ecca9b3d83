"""`nigaoe eval`."""

from pathlib import Path
from typing import Annotated

import typer


def evaluate(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/toy/eval.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value, over what the file says.")] = None,
) -> None:
    """Evaluate adapters: generate and score in shards on Ray, then write a report with intervals and pictures."""
    from nigaoe.core.config import load_config
    from nigaoe.eval.config import EvalConfig

    settings = load_config(config, EvalConfig, overrides or [])
    from nigaoe.eval.headlines import headline_texts
    from nigaoe.eval.job import run_evaluation
    from nigaoe.eval.protocols.make import make_protocol

    report = run_evaluation(settings)
    for headline in headline_texts(make_protocol(settings).headlines(), report):
        beside = "; ".join(filter(None, (headline.interval, headline.beside)))
        typer.echo(f"{headline.title}: {headline.figure} ({beside})")
    passed = len(report.thresholds) - len(report.misses)
    if report.thresholds:
        typer.echo(f"thresholds: {passed} of {len(report.thresholds)} reached")
    typer.echo(f"report: {settings.out / 'report.html'}")
