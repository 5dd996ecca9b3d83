"""Parts of a base that are read without the rest: its sizes, its autoencoder, its tokenizers."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from safetensors import SafetensorError
from transformers import CLIPTokenizer

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import locate, quiet_loading


class BaseOutline(NamedTuple):
    """What the settings of a base say of it; the properties of `Base` of the same names."""

    default_size_px: int
    size_multiple: int
    is_xl: bool
    is_inpainting: bool


def read_outline(name: str) -> BaseOutline:
    """Outline of a base, from its settings alone.

    Raises:
        BaseModelError: It cannot be found.
    """
    path, unet = locate(name), read_unet_config(name)
    with _telling(name):
        vae: dict[str, Any] = AutoencoderKL.load_config(path, subfolder="vae")
    vae_factor = 2 ** (len(vae["block_out_channels"]) - 1)
    return BaseOutline(
        default_size_px=int(unet["sample_size"]) * vae_factor,
        size_multiple=vae_factor * 2 ** (len(unet["block_out_channels"]) - 1),
        is_xl=unet.get("addition_embed_type") == "text_time",
        is_inpainting=unet["in_channels"] != unet["out_channels"],
    )


def read_unet_config(name: str) -> dict[str, Any]:
    """Settings of a base's UNet.

    Raises:
        BaseModelError: It cannot be found.
    """
    with _telling(name):
        config: dict[str, Any] = UNet2DConditionModel.load_config(locate(name), subfolder="unet")
    return config


def load_autoencoder(name: str, device: str | torch.device = "cpu") -> AutoencoderKL:
    """The autoencoder of a base, float32, frozen.

    Raises:
        BaseModelError: It cannot be found.
    """
    path, target = locate(name), torch.device(device)
    with _telling(name):
        vae = AutoencoderKL.from_pretrained(path, subfolder="vae", torch_dtype=torch.float32)
    layout = torch.channels_last if target.type == "cuda" else torch.preserve_format
    return vae.eval().requires_grad_(False).to(target, memory_format=layout)


def load_tokenizers(name: str) -> tuple[CLIPTokenizer, ...]:
    """Tokenizers of a base's towers, in order.

    Raises:
        BaseModelError: One of them cannot be found.
    """
    path, suffixes = locate(name), ("", "_2") if read_outline(name).is_xl else ("",)
    with _telling(name):
        return tuple(CLIPTokenizer.from_pretrained(path, subfolder=f"tokenizer{suffix}") for suffix in suffixes)


@contextmanager
def _telling(name: str) -> Iterator[None]:
    try:
        with quiet_loading():
            yield
    except (OSError, ValueError, SafetensorError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise BaseModelError(
            f"base model {name!r} cannot be loaded ({reason}); give a diffusers folder or hub id"
        ) from None
