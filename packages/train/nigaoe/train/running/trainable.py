"""Bases that can be trained on, told apart before anything runs."""

from nigaoe.core.base_parts import BaseOutline, read_outline
from nigaoe.core.errors import ConfigError


def require_trainable(base: str) -> BaseOutline:
    """Refuse a base whose UNet reads what training does not give it.

    Raises:
        ConfigError: One for inpainting.
        BaseModelError: It cannot be found.
    """
    outline = read_outline(base)
    if outline.is_inpainting:
        raise ConfigError(
            f"base {base!r} is an inpainting base, on which adapters draw but are not trained; train on the one that "
            f"it was made from, and the adapter fits both"
        )
    return outline
