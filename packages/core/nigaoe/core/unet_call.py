"""One call of a UNet: all that it reads, and the one place where its precision begins and ends."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from nigaoe.core.attention import ImagePrompt, KeysValues


class UNetCall(NamedTuple):
    """Inputs of B rows, in whatever precision they come."""

    sample: Tensor
    """Scaled latents, with the channels that an inpainting base reads beside them, [B, C, h, w]."""
    timesteps: Tensor
    """[B]."""
    text_states: Tensor
    """[B, T, C]."""
    image_prompts: tuple[ImagePrompt, ...] = ()
    text: KeysValues | None = None
    """Keys and values of the text states, where somebody has them already."""
    pooled: Tensor | None = None
    """SDXL's summary of the prompt, [B, P]."""
    time_ids: Tensor | None = None
    """SDXL's original size, crop and target size, [B, 6]."""
    down_residuals: tuple[Tensor, ...] | None = None
    """What ControlNets add to the skip connections."""
    mid_residual: Tensor | None = None


def run_unet(unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
    """The prediction, float32 [B, C, h, w]; the UNet runs in the precision of its weights."""
    # Not `unet.dtype`, which walks over all modules: a tenth of the time of a small UNet.
    dtype = next(unet.parameters()).dtype

    def cast(x: Tensor | None) -> Tensor | None:
        return None if x is None else x.to(dtype)

    added = None if call.pooled is None else {"text_embeds": cast(call.pooled), "time_ids": call.time_ids}
    residuals = None if call.down_residuals is None else tuple(x.to(dtype) for x in call.down_residuals)
    prediction: Tensor = unet(
        cast(call.sample),
        call.timesteps,
        encoder_hidden_states=cast(call.text_states),
        cross_attention_kwargs={"image_prompts": call.image_prompts, "text": call.text},
        added_cond_kwargs=added,
        down_block_additional_residuals=residuals,
        mid_block_additional_residual=cast(call.mid_residual),
        return_dict=False,
    )[0]
    return prediction.to(torch.float32)


Runner = Callable[[UNet2DConditionModel, UNetCall], Tensor]
"""How a UNet is called: plainly, compiled or as a CUDA graph."""
