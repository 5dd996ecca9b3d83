"""ControlNets (arXiv 2302.05543): networks that read a picture of edges, depth or a pose beside the base."""

from dataclasses import dataclass

import torch
from diffusers import ControlNetModel, UNet2DConditionModel
from safetensors import SafetensorError

from nigaoe.core.errors import BaseModelError, RequestError
from nigaoe.core.models import locate, quiet_loading

_SHARED = ("block_out_channels", "cross_attention_dim", "layers_per_block", "addition_embed_type")


@dataclass(frozen=True, eq=False)
class ControlNet:
    """A frozen ControlNet; requests bring its picture and scale."""

    name: str
    model: ControlNetModel

    def require_fit(self, unet: UNet2DConditionModel, vae_factor: int) -> None:
        """Refuse a UNet that it was not made for.

        Raises:
            RequestError: Their architectures differ, with the first difference.
        """
        factor = 2 ** (len(self.model.config.conditioning_embedding_out_channels) - 1)
        if factor != vae_factor:
            raise RequestError(
                f"ControlNet {self.name!r} makes {factor} pixels one position, the base {vae_factor}; use one made for "
                "this base"
            )
        for key in _SHARED:
            ours, theirs = self.model.config[key], unet.config[key]
            if _comparable(ours) != _comparable(theirs):
                raise RequestError(
                    f"ControlNet {self.name!r} has {key} {ours}, the base has {theirs}; use one made for this base"
                )


def _comparable(value: object) -> object:
    # Lists come back from files where tuples went in.
    return list(value) if isinstance(value, tuple) else value


def load_controlnet(name: str, precision: str = "float32", device: str | torch.device = "cpu") -> ControlNet:
    """Load by hub id or folder.

    Raises:
        BaseModelError: It cannot be found or is not a ControlNet folder.
    """
    path = locate(name, "ControlNet")
    try:
        with quiet_loading():
            model = ControlNetModel.from_pretrained(path, torch_dtype=getattr(torch, precision))
    except (OSError, ValueError, SafetensorError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise BaseModelError(
            f"ControlNet {name!r} cannot be loaded ({reason}); give a diffusers folder or hub id"
        ) from None
    layout = torch.channels_last if torch.device(device).type == "cuda" else torch.preserve_format
    return ControlNet(name, model.to(torch.device(device), memory_format=layout).eval().requires_grad_(False))
