"""What may change while a server runs, without its weights being loaded again."""

from collections.abc import Collection, Mapping
from typing import Any

from nigaoe.core.config import parse_config
from nigaoe.core.errors import ConfigError
from nigaoe.serve.config import ServeConfig

AT_THE_INGRESS = ("defaults", "limits", "access")
AT_THE_ENGINE = ("engine", "limits", "defaults")
"""Sections of `ServeConfig` that the `user_config` of a deployment may change."""


def changed(config: ServeConfig, changes: Mapping[str, Any], sections: Collection[str]) -> ServeConfig:
    """A config with a few of its values replaced, section by section.

    Raises:
        ConfigError: Another section is named, or a value is wrong.
    """
    if not changes:
        return config
    others = sorted(set(changes) - set(sections))
    if others:
        raise ConfigError(f"user_config changes {others[0]!r}, which needs a restart; change it in args instead")
    return parse_config(merged(config.model_dump(mode="json"), changes), ServeConfig, "user_config")


def merged(values: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """Values with those of `changes` in place of theirs; what both have as sections is merged in turn."""
    result = dict(values)
    for key, change in changes.items():
        both = isinstance(change, Mapping) and isinstance(result.get(key), Mapping)
        result[key] = merged(result[key], change) if both else change
    return result
