"""Bases that can be trained on, told apart before anything runs."""

from diffusers import UNet2DConditionModel

from nigaoe.core.errors import BaseModelError, ConfigError
from nigaoe.core.models import locate, quiet_loading


def require_trainable(base: str) -> None:
    """Refuse a base whose UNet reads what training does not give it yet.

    Raises:
        ConfigError: SDXL, or one for inpainting.
        BaseModelError: It cannot be found.
    """
    try:
        with quiet_loading():
            config = UNet2DConditionModel.load_config(locate(base), subfolder="unet")
    except OSError as error:
        reason = str(error).strip().splitlines()[0]
        raise BaseModelError(
            f"base model {base!r} cannot be loaded ({reason}); give a diffusers folder or hub id"
        ) from None
    kind = None
    if config.get("addition_embed_type") == "text_time":
        kind = "an SDXL base"
    elif config["in_channels"] != config["out_channels"]:
        kind = "an inpainting base"
    if kind is not None:
        raise ConfigError(
            f"base {base!r} is {kind}, on which adapters draw but are not trained yet; train on one of SD 1.x or 2.x"
        )
