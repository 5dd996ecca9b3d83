"""Where models come from: a hub id, a local folder, or a name of the toy world."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from nigaoe.core.errors import BaseModelError

TOY_WEIGHTS = Path(__file__).parent / "toy" / "weights"
TOY_NAMES = ("toy/photo", "toy/anime", "toy/image_encoder", "toy/clip", "toy/judge", "toy/adapter")


def locate(name: str, role: str = "base model") -> str:
    """What `from_pretrained` should be given for a name.

    Raises:
        BaseModelError: A toy name that does not exist, or neither a folder nor a hub id.
    """
    if name.startswith("toy/"):
        if name not in TOY_NAMES:
            raise BaseModelError(f"{role} {name!r} is not part of the toy world; it has {', '.join(TOY_NAMES)}")
        return str(TOY_WEIGHTS / name.removeprefix("toy/"))
    if Path(name).is_dir():
        return str(Path(name).resolve())
    if name.startswith((".", "/", "~")) or name.count("/") != 1 or name != name.strip() or not all(name.split("/")):
        raise BaseModelError(f"{role} {name!r} is neither a folder here nor a hub id like 'owner/name'; mend the name")
    return name


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
