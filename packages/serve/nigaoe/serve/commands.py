"""The commands `nigaoe serve`, `serve-config`, `serve-key` and `loadtest`."""

import hashlib
import secrets
from pathlib import Path
from typing import Annotated

import typer

ConfigFile = Annotated[Path, typer.Argument(help="A YAML file, such as configs/demo/serve.yaml.")]
Overrides = Annotated[list[str] | None, typer.Argument(help="key.path=value ...")]


def serve(config: ConfigFile, overrides: Overrides = None) -> None:
    """Serve adapters over HTTP until Ctrl-C."""
    # Here, so that `nigaoe --help` needs neither torch nor Ray.
    from nigaoe.serve.deploy_file import read_serve_config

    settings = read_serve_config(config, overrides or [])

    from nigaoe.serve.lifecycle import serve_until_stopped

    serve_until_stopped(settings)


def serve_config(config: ConfigFile, overrides: Overrides = None) -> None:
    """Print what `serve deploy` of Ray Serve takes."""
    import yaml

    from nigaoe.serve.deploy_file import deployable, read_serve_config

    typer.echo(yaml.safe_dump(deployable(read_serve_config(config, overrides or [])), sort_keys=False), nl=False)


def serve_key(
    name: Annotated[str, typer.Argument(help="Of the caller, for logs and metrics.")],
    rate: Annotated[str | None, typer.Option(help="As 60/minute.")] = None,
    may_manage: Annotated[bool, typer.Option("--may-manage", help="May upload and delete adapters.")] = False,
) -> None:
    """Print a new API key, once, and its entry for `access.keys`."""
    import yaml

    from nigaoe.core.config import parse_config
    from nigaoe.serve.config import KeyConfig

    key = f"ngo_{secrets.token_urlsafe(32)}"
    values = {"name": name, "sha256": hashlib.sha256(key.encode()).hexdigest(), "rate": rate, "may_manage": may_manage}
    entry = parse_config(values, KeyConfig, "serve-key")
    typer.echo(f"{key}\n")
    typer.echo("# The key is shown this once. Under access.keys, or in access.keys_file:")
    typer.echo(yaml.safe_dump([entry.model_dump(exclude_defaults=True)], sort_keys=False), nl=False)


def loadtest(
    workload: Annotated[Path, typer.Argument(help="A YAML file, such as configs/demo/load.yaml.")],
    url: Annotated[str, typer.Option(help="Of the server.")] = "http://127.0.0.1:8000",
    out: Annotated[Path, typer.Option(help="Folder for result.json and latency.svg.")] = Path("runs/loadtest"),
    overrides: Overrides = None,
) -> None:
    """Ask a server for many pictures at once and say how it bore it; the key is NIGAOE_API_KEY, if it needs one."""
    from nigaoe.core.config import load_config
    from nigaoe.serve.loadtest.running import run_and_report
    from nigaoe.serve.loadtest.workload import Workload

    run_and_report(load_config(workload, Workload, overrides or []), url, out)
