"""The command `nigaoe serve`."""

from pathlib import Path
from typing import Annotated

import typer


def serve(
    config: Annotated[Path, typer.Argument(help="A YAML file, such as configs/demo/serve.yaml.")],
    overrides: Annotated[list[str] | None, typer.Argument(help="key.path=value ...")] = None,
) -> None:
    """Serve adapters over HTTP until Ctrl-C."""
    # Here, so that `nigaoe --help` needs neither torch nor Ray.
    from nigaoe.core.config import load_config
    from nigaoe.serve.config import ServeConfig

    settings = load_config(config, ServeConfig, overrides or [])

    from nigaoe.serve.lifecycle import serve_until_stopped

    serve_until_stopped(settings)
