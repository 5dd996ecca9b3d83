"""`nigaoe prepare` and `nigaoe train`."""

from pathlib import Path
from typing import Annotated

import typer

ConfigPath = Annotated[Path, typer.Argument(help="A YAML config.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="Changes to it, as key.path=value.")]


def prepare(config: ConfigPath, overrides: Overrides = None) -> None:
    """Encode a folder of pictures and captions once, so that training need not."""
    from nigaoe.core.config import load_config
    from nigaoe.train.cluster import connected
    from nigaoe.train.config import TrainConfig
    from nigaoe.train.prepare import prepare as run

    parsed = load_config(config, TrainConfig, overrides or ())
    with connected(parsed.cluster):
        manifest = run(parsed)
    typer.echo(f"prepared {manifest.rows} images of {manifest.identities} identities in {parsed.data.prepared}")


def train(config: ConfigPath, overrides: Overrides = None) -> None:
    """Train an adapter on a Ray cluster; the same name goes on where it stopped."""
    from nigaoe.core.config import load_config
    from nigaoe.train.config import TrainConfig
    from nigaoe.train.job import train as run

    parsed = load_config(config, TrainConfig, overrides or ())
    adapter = run(parsed)
    typer.echo(f"trained {parsed.steps} steps; the adapter is {adapter}")
