"""One YAML for both: `nigaoe serve FILE`, and `serve deploy FILE` of Ray Serve as it is.

A file may also hold the keys of `ServeConfig` alone; then it is for `nigaoe serve`, and `nigaoe serve-config` makes of
it what Ray Serve takes.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nigaoe.core.config import apply_override, parse_config, read_values
from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import ServeConfig
from nigaoe.serve.deployments.changes import merged
from nigaoe.serve.playground import config as playground

IMPORT_PATH = "nigaoe.serve.app:build"
QUIET = {"log_level": "WARNING", "enable_access_log": False, "encoding": "JSON"}


def read_serve_config(path: Path, overrides: Sequence[str] = ()) -> ServeConfig:
    """Read a file of either kind and apply `key.path=value` overrides to what is ours in it.

    Raises:
        ConfigError: It is missing, is not YAML, deploys something else, or a value is wrong.
    """
    values = read_values(path)
    if "applications" in values:
        values = _arguments(values, path)
    for override in overrides:
        apply_override(values, override)
    return parse_config(values, ServeConfig, str(path))


def deployable(config: ServeConfig) -> dict[str, Any]:
    """What `serve deploy` takes; only what differs from the defaults is said."""
    args = config.model_dump(mode="json", exclude_defaults=True, exclude={"host", "port", "ray_address"})
    applications = [{"name": "nigaoe", "route_prefix": "/", "import_path": IMPORT_PATH, "args": args}]
    if config.playground:
        page = playground.PlaygroundConfig.of(config, config.port)
        applications.append(
            {
                "name": playground.APP_NAME,
                "route_prefix": playground.ROUTE_PREFIX,
                "import_path": playground.IMPORT_PATH,
                # Wherever a process runs, a proxy of Ray Serve does.
                "args": {"url": page.url} | page.model_dump(exclude_defaults=True),
            }
        )
    return {
        "proxy_location": "EveryNode",
        "http_options": {"host": config.host, "port": config.port},
        "logging_config": QUIET,
        "applications": applications,
    }


def _arguments(values: Mapping[str, Any], path: Path) -> dict[str, Any]:
    applications = values["applications"]
    is_list = isinstance(applications, list) and all(isinstance(item, dict) for item in applications)
    own = [item for item in applications if item.get("import_path") == IMPORT_PATH] if is_list else []
    if len(own) != 1:
        raise ConfigError(f"{path}: applications holds {len(own)} with import_path {IMPORT_PATH}; write exactly one")
    has_page = any(item.get("import_path") == playground.IMPORT_PATH for item in applications)
    args: dict[str, Any] = {"playground": has_page} | (own[0].get("args") or {})
    for deployment in own[0].get("deployments") or []:
        # What could change on the cluster without a restart holds here from the start.
        args = merged(args, deployment.get("user_config") or {})
    options = values.get("http_options") or {}
    return {key: options[key] for key in ("host", "port") if key in options} | args
