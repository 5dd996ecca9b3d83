"""Where models come from: a hub id, a local folder, or a name of the toy world."""

import hashlib
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from nigaoe.core.errors import BaseModelError

TOY_WEIGHTS = Path(__file__).parent / "toy" / "weights"
TOY_NAMES = ("toy/photo", "toy/anime", "toy/image_encoder", "toy/clip", "toy/judge", "toy/adapter")
_TOY_ROLES = {
    "base model": ("toy/photo", "toy/anime"),
    "image encoder": ("toy/image_encoder",),
    "scoring CLIP": ("toy/clip",),
    "judge": ("toy/judge",),
    "adapter": ("toy/adapter",),
}


def locate(name: str | Path, role: str = "base model") -> str:
    """What `from_pretrained` should be given for a name or a folder; `role`: how messages say what it is for.

    Raises:
        BaseModelError: A toy name that does not exist, or neither a folder nor a hub id.
    """
    name = name.as_posix() if isinstance(name, Path) else name
    if name.startswith("toy/"):
        if name not in TOY_NAMES:
            known = ", ".join(_TOY_ROLES.get(role, ())) or f"no {role}"
            raise BaseModelError(
                f"{role} {name!r} is not part of the toy world; it has {known}, so mend the name or give a folder"
            )
        return str(TOY_WEIGHTS / name.removeprefix("toy/"))
    if name and Path(name).is_dir():
        return str(Path(name).resolve())
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or name != name.strip() or not all(name.split("/")):
        raise BaseModelError(f"{role} {name!r} is neither a folder here nor a hub id like 'owner/name'; mend the name")
    return name


def fingerprint(module: nn.Module) -> str:
    """First 16 hex digits of the SHA-256 of a module's weights."""
    digest = hashlib.sha256()
    for key, value in sorted(module.state_dict().items()):
        digest.update(key.encode())
        digest.update(value.detach().cpu().contiguous().float().numpy().tobytes())
    return digest.hexdigest()[:16]


def load_complete(cls: Any, path: str, subfolder: str = "", **made_with: Any) -> Any:
    """A transformers model in float32, frozen, with every weight from the file; `made_with`: for its constructor.

    Raises:
        ValueError: A weight is missing or has another shape; transformers would go on with random ones.
    """
    model, info = cls.from_pretrained(
        path, subfolder=subfolder, dtype=torch.float32, output_loading_info=True, **made_with
    )
    lacking = sorted(map(str, [*info["missing_keys"], *info["mismatched_keys"]]))
    if lacking:
        raise ValueError(f"it has no fitting weight {lacking[0]!r}")
    return model.eval().requires_grad_(False)


@contextmanager
def quiet_loading() -> Iterator[None]:
    """No progress bar per weight file and no advice about packages that are not needed."""
    from transformers.utils import logging as transformers_logging

    loggers = [logging.getLogger(name) for name in ("transformers", "diffusers")]
    levels = [logger.level for logger in loggers]
    had_bars = transformers_logging.is_progress_bar_enabled()
    transformers_logging.disable_progress_bar()
    for logger in loggers:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        if had_bars:
            transformers_logging.enable_progress_bar()
