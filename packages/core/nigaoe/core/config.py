"""Config files: YAML in, a frozen pydantic model out, every mistake named. No torch here."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError
from pydantic_core import ErrorDetails

from nigaoe.core.errors import ConfigError


class Config(BaseModel):
    """Base of every config: unknown keys are errors, values do not change, docstrings are the help."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


ConfigT = TypeVar("ConfigT", bound=BaseModel)


def load_config(path: Path, model: type[ConfigT], overrides: Sequence[str] = ()) -> ConfigT:
    """Read a YAML file, apply `key.path=value` overrides, validate once.

    Raises:
        ConfigError: The file is missing, is not a YAML mapping, or a value is wrong.
    """
    values = read_values(path)
    for override in overrides:
        apply_override(values, override)
    return parse_config(values, model, str(path))


def read_values(path: Path) -> dict[str, Any]:
    """A YAML file as it stands there.

    Raises:
        ConfigError: It is missing or is not a YAML mapping.
    """
    if not path.is_file():
        raise ConfigError(f"config file {str(path)!r} does not exist; give the path of a YAML file")
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8")) or {}
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        first_line = str(error).splitlines()[0]
        raise ConfigError(f"config file {str(path)!r} is not valid YAML ({first_line}); mend its syntax") from None
    if not isinstance(values, dict):
        raise ConfigError(f"config file {str(path)!r} holds no keys; write `key: value` lines")
    return values


def parse_config(values: dict[str, Any], model: type[ConfigT], where: str) -> ConfigT:
    """Validate what was read; `where`: how messages call the place that it came from.

    Raises:
        ConfigError: A value is wrong.
    """
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise ConfigError(f"{where}: {_sentence(error.errors()[0], model)}") from None


def set_value(values: dict[str, Any], key: str, value: object) -> None:
    """Set `key.path` in nested values.

    Raises:
        ConfigError: It goes below what is no section.
    """
    *parents, leaf = key.split(".")
    for parent in parents:
        values = values.setdefault(parent, {})
        if not isinstance(values, dict):
            raise ConfigError(f"key {key!r} goes below {parent!r}, which is not a section")
    values[leaf] = value


def apply_override(values: dict[str, Any], override: str) -> None:
    """Apply one `key.path=value`, its value being YAML.

    Raises:
        ConfigError: It is not of that form, or goes below what is no section.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        raise ConfigError(f"override {override!r} is not of the form key.path=value")
    try:
        set_value(values, key, yaml.safe_load(text))
    except yaml.YAMLError:
        raise ConfigError(f"override {override!r} has a value that is not YAML; put it in quotes") from None


def _sentence(error: ErrorDetails, model: type[BaseModel]) -> str:
    where = ".".join(str(part) for part in error["loc"]) or "the file"
    if error["type"] == "extra_forbidden":
        known = ", ".join(sorted(_keys_at(model, error["loc"][:-1])))
        return f"unknown key {where!r}; known keys here are: {known}"
    if error["type"] == "missing":
        return f"key {where!r} is missing; add it"
    return f"{where!r} is {error['input']!r}: {error['msg'][0].lower()}{error['msg'][1:]}"


def _keys_at(model: type[BaseModel], location: Sequence[int | str]) -> list[str]:
    for part in location:
        field = model.model_fields.get(str(part))
        inner = field.annotation if field else None
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            model = inner
    return list(model.model_fields)
