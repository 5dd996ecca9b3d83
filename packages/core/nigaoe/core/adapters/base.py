"""The base IP-Adapter: a few image tokens from one image embedding, a key and a value matrix per cross-attention layer.

Module names are the published checkpoint keys, so a file is `state_dict()` and nothing else:
`image_proj.proj.weight`, `image_proj.norm.weight`, `ip_adapter.1.to_k_ip.weight`, ...
"""

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from nigaoe.core.attention import ImagePrompt, cross_attention_layers
from nigaoe.core.errors import AdapterError


class ImageProjModel(nn.Module):
    """Image embedding [B, E] to image tokens [B, M, C]: one linear layer, reshaped, layer-normed."""

    def __init__(self, embed_dim: int, cross_attention_dim: int, num_tokens: int) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Linear(embed_dim, num_tokens * cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, image_embeds: Tensor) -> Tensor:
        tokens = self.proj(image_embeds).view(image_embeds.shape[0], self.num_tokens, -1)
        return self.norm(tokens)  # type: ignore[no-any-return]


class KeyValueProjection(nn.Module):
    """`to_k_ip` and `to_v_ip` of one cross-attention layer."""

    def __init__(self, cross_attention_dim: int, hidden_size: int) -> None:
        super().__init__()
        self.to_k_ip = nn.Linear(cross_attention_dim, hidden_size, bias=False)
        self.to_v_ip = nn.Linear(cross_attention_dim, hidden_size, bias=False)


class IPAdapter(nn.Module):
    """All trainable weights of a base adapter and none of the UNet's."""

    def __init__(
        self, embed_dim: int, cross_attention_dim: int, hidden_sizes: dict[int, int], num_tokens: int = 4
    ) -> None:
        """`hidden_sizes`: width of each cross-attention layer by its published index (1, 3, 5, ...)."""
        super().__init__()
        self.embed_dim, self.cross_attention_dim = embed_dim, cross_attention_dim
        self.image_proj = ImageProjModel(embed_dim, cross_attention_dim, num_tokens)
        self.ip_adapter = nn.ModuleDict(
            {str(index): KeyValueProjection(cross_attention_dim, size) for index, size in hidden_sizes.items()}
        )

    @classmethod
    def for_unet(cls, unet: UNet2DConditionModel, embed_dim: int, num_tokens: int = 4) -> "IPAdapter":
        """An untrained adapter of a UNet; keys and values start as copies of the text ones, as published."""
        layers = cross_attention_layers(unet)
        adapter = cls(
            embed_dim, _context_width(layers), {i: a.to_k.out_features for i, a in layers.items()}, num_tokens
        )
        with torch.no_grad():
            for index, attn in layers.items():
                pair = adapter.ip_adapter[str(index)]
                pair.to_k_ip.weight.copy_(attn.to_k.weight)  # type: ignore[union-attr, operator]
                pair.to_v_ip.weight.copy_(attn.to_v.weight)  # type: ignore[union-attr, operator]
        return adapter

    @property
    def num_tokens(self) -> int:
        """Image tokens per picture."""
        return self.image_proj.num_tokens

    def forward(self, image_embeds: Tensor) -> ImagePrompt:
        """Encode image embeddings [B, E]; a row of zeros is the unconditional image."""
        tokens = self.image_proj(image_embeds)
        pairs = list(self.ip_adapter.values())
        return ImagePrompt(
            keys=tuple(pair.to_k_ip(tokens) for pair in pairs),  # type: ignore[operator]
            values=tuple(pair.to_v_ip(tokens) for pair in pairs),  # type: ignore[operator]
        )

    def require_fit(self, unet: UNet2DConditionModel) -> None:
        """Refuse a UNet whose cross-attention layers are not the ones this adapter was made for.

        Raises:
            AdapterError: Another number of layers or another width.
        """
        layers = cross_attention_layers(unet)
        theirs = {str(i): (a.to_k.in_features, a.to_k.out_features) for i, a in layers.items()}
        ours = {i: (p.to_k_ip.in_features, p.to_k_ip.out_features) for i, p in self.ip_adapter.items()}  # type: ignore[union-attr]
        if ours != theirs:
            raise AdapterError(
                f"the adapter has {len(ours)} layers for a text width of {self.cross_attention_dim}, the base has "
                f"{len(theirs)} for {_context_width(layers)}; use an adapter trained on a base of this architecture"
            )


def _context_width(layers: dict[int, Attention]) -> int:
    return int(next(iter(layers.values())).to_k.in_features)
