"""Decoupled cross-attention: one definition for training and inference, and nothing about a request on any module.

    out = Attention(Q, K_text, V_text) + sum_i m_i Attention(Q, K_i, s_i V_i)      (IP-Adapter, arXiv 2308.06721, eq. 5)

i runs over the image prompts of a row, one or several adapters; m_i is where in the picture prompt i applies.
Shapes: B rows, N queries, T text tokens, M image tokens, H heads, D head width, C = H * D.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor

from nigaoe.core.adapter_names import LoraTarget as LoraTarget


class LowRank(NamedTuple):
    """A low-rank addition to a linear layer: x -> up(down(x))."""

    down: Tensor
    """[r, in]."""
    up: Tensor
    """[out, r]."""


class AttentionLora(NamedTuple):
    """The LoRA that a FaceID adapter brings for every attention layer, for some rows of a batch."""

    layers: tuple[dict[LoraTarget, LowRank], ...]
    """Per attention layer of the UNet, self- and cross-attention alike."""
    scale: float | Tensor = 1.0
    """One number, or one per row [n]."""
    rows: Tensor | None = None
    """int64 [n]; None: every row."""

    @property
    def weights_id(self) -> int:
        """The same for every LoRA made of the same weights."""
        return next(id(pair.down) for layer in self.layers for pair in layer.values())

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next(pair.down.device for layer in self.layers for pair in layer.values())

    def add(self, y: Tensor, x: Tensor, layer: int, target: LoraTarget) -> Tensor:
        """`y` plus this LoRA of `x`, in the rows that it is for."""
        pair = self.layers[layer].get(target)
        if pair is None:
            return y
        x = x if self.rows is None else x[self.rows]
        delta = F.linear(F.linear(x, pair.down.to(x.dtype)), pair.up.to(x.dtype)).to(y.dtype)
        delta = delta * (self.scale.view(-1, 1, 1).to(y.dtype) if isinstance(self.scale, Tensor) else self.scale)
        return y + delta if self.rows is None else y.index_add(0, self.rows, delta)


class KeysValues(NamedTuple):
    """Keys and values for every cross-attention layer, in the order of published adapter files."""

    keys: tuple[Tensor, ...]
    """Per layer, [B, tokens, C]."""
    values: tuple[Tensor, ...]
    """Per layer, [B, tokens, C]."""


class ImagePrompt(NamedTuple):
    """An image prompt after encoding: keys and values for every cross-attention layer, scale folded into the values.

    They depend on the image and the adapter, never on the timestep; so they are made once per request.
    """

    keys: tuple[Tensor, ...]
    """Per cross-attention layer, [B, M, C]."""
    values: tuple[Tensor, ...]
    """Per cross-attention layer, [B, M, C]."""
    mask: Tensor | None = None
    """bool [B, M]; False marks padding. None: every token counts."""
    loras: tuple[AttentionLora, ...] = ()
    """Weights that cannot be folded into keys and values, each for its own rows."""
    regions: dict[int, Tensor] | None = None
    """Where in the picture it applies, in [0, 1], [B, N, 1] by the number N of queries. None: everywhere."""

    @property
    def num_tokens(self) -> int:
        """M."""
        return self.keys[0].shape[1]

    def to(self, device: torch.device, dtype: torch.dtype) -> "ImagePrompt":
        """Keys and values there and in that precision. LoRAs belong to the adapter and stay where it is."""
        keys, values = (tuple(x.to(device, dtype) for x in side) for side in (self.keys, self.values))
        mask = None if self.mask is None else self.mask.to(device)
        return self._replace(keys=keys, values=values, mask=mask)

    def scaled(self, scale: float | Tensor) -> "ImagePrompt":
        """Multiply the values by a number, or by one number per row [B]."""
        s = scale.view(-1, 1, 1) if isinstance(scale, Tensor) else scale
        return self._replace(values=tuple(v * s for v in self.values))

    def rows(self, start: int, stop: int) -> "ImagePrompt":
        """Some rows of the batch."""
        if self.regions is not None or any(lora.rows is not None for lora in self.loras):
            raise ValueError("rows of a stacked prompt cannot be taken apart; take them before stacking")
        mask = None if self.mask is None else self.mask[start:stop]
        keys, values = (tuple(x[start:stop] for x in side) for side in (self.keys, self.values))
        return ImagePrompt(keys, values, mask, self.loras)


def attend(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Softmax attention of [B, H, N, D] over [B, H, T, D]; `mask`, additive or bool, broadcasts to [B, H, N, T]."""
    if q.device.type == "cpu" and torch.is_grad_enabled():
        # Measured, 4 M parameters, batch 16, one thread: 0.21 s a training step, 0.24 s with the fused kernel, which is
        # the faster one where nothing is trained.
        scores = q @ k.transpose(-1, -2) * q.shape[-1] ** -0.5
        if mask is not None:
            scores = scores.masked_fill(~mask, float("-inf")) if mask.dtype == torch.bool else scores + mask
        out: Tensor = scores.softmax(-1).to(v.dtype) @ v
        return out
    return F.scaled_dot_product_attention(q, k, v, attn_mask=mask)


class DecoupledAttnProcessor:
    """The plug that diffusers offers, for every attention layer of a UNet. It knows its layer and nothing else.

    All else arrives as an argument of the UNet call: `cross_attention_kwargs={"image_prompts": (prompt,)}`, and `text`
    where the keys and values of the text are known already.
    """

    def __init__(self, index: int, layer: int | None) -> None:
        """`index`: place among all attention layers. `layer`: among those of cross-attention; None for the others."""
        self.index, self.layer = index, layer

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
        image_prompts: Sequence[ImagePrompt] = (),
        text: KeysValues | None = None,
    ) -> Tensor:
        """Run one attention layer on [B, N, C]."""
        batch = hidden_states.shape[0]
        context = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if attention_mask is not None:
            attention_mask = attn.prepare_attention_mask(attention_mask, context.shape[1], batch)
            attention_mask = attention_mask.view(batch, attn.heads, -1, attention_mask.shape[-1])

        def split_heads(x: Tensor) -> Tensor:
            return x.to(q.dtype).view(batch, -1, attn.heads, x.shape[-1] // attn.heads).transpose(1, 2)

        loras = [lora for prompt in image_prompts for lora in prompt.loras]

        def with_loras(y: Tensor, x: Tensor, target: LoraTarget) -> Tensor:
            for lora in loras:
                y = lora.add(y, x, self.index, target)
            return y

        if attn.fused_projections and encoder_hidden_states is None:
            q, k, v = attn.to_qkv(hidden_states).chunk(3, dim=-1)
        else:
            q = attn.to_q(hidden_states)
            if text is None or self.layer is None:
                k, v = attn.to_k(context), attn.to_v(context)
            else:
                k, v = text.keys[self.layer], text.values[self.layer]
        q, k, v = with_loras(q, hidden_states, "q"), with_loras(k, context, "k"), with_loras(v, context, "v")
        q_heads = split_heads(q)
        out = attend(q_heads, split_heads(k), split_heads(v), attention_mask)
        if self.layer is not None:
            for prompt in image_prompts:
                k, v = prompt.keys[self.layer], prompt.values[self.layer]
                mask = None if prompt.mask is None else prompt.mask[:, None, None, :]
                seen = attend(q_heads, split_heads(k), split_heads(v), mask)
                if prompt.regions is not None:
                    seen = seen * prompt.regions[q.shape[1]].to(q.dtype)[:, None]
                out = out + seen
        out = out.transpose(1, 2).flatten(2).to(q.dtype)
        out = with_loras(attn.to_out[0](out), out, "out")
        return attn.to_out[1](out) / attn.rescale_output_factor  # type: ignore[no-any-return]


def attention_layers(unet: UNet2DConditionModel) -> list[Attention]:
    """Every attention module, in registration order: down, up, mid. Published adapter files number them so."""
    return [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors]


def projection_widths(attn: Attention) -> dict[LoraTarget, tuple[int, int]]:
    """(in, out) of an attention layer's projections."""
    pairs: dict[LoraTarget, Any] = {"q": attn.to_q, "k": attn.to_k, "v": attn.to_v, "out": attn.to_out[0]}
    return {target: (linear.in_features, linear.out_features) for target, linear in pairs.items()}


def cross_attention_layers(unet: UNet2DConditionModel) -> dict[int, Attention]:
    """Cross-attention modules by their published index: 1, 3, 5, ... for Stable Diffusion."""
    return {index: attn for index, attn in enumerate(attention_layers(unet)) if attn.is_cross_attention}


@torch.no_grad()
def text_keys_values(layers: Sequence[Attention], states: Tensor) -> KeysValues:
    """What cross-attention layers make of text states [B, T, C]; it does not depend on the timestep."""
    return KeysValues(tuple(attn.to_k(states) for attn in layers), tuple(attn.to_v(states) for attn in layers))


def attach(unet: UNet2DConditionModel) -> dict[str, object]:
    """Let a UNet take image prompts. Returns its former processors, for `detach`. Its state dict is untouched."""
    former = dict(unet.attn_processors)
    cross = {index: position for position, index in enumerate(cross_attention_layers(unet))}
    unet.set_attn_processor({name: DecoupledAttnProcessor(i, cross.get(i)) for i, name in enumerate(former)})
    return former


def detach(unet: UNet2DConditionModel, former: dict[str, object]) -> None:
    """Give a UNet the processors back that `attach` returned."""
    unet.set_attn_processor(dict(former))


@contextmanager
def attached(unet: UNet2DConditionModel) -> Iterator[None]:
    """`attach` for the length of a block."""
    former = attach(unet)
    try:
        yield
    finally:
        detach(unet, former)
