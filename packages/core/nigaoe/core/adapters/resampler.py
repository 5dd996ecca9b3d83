"""The Perceiver resampler that Plus, Plus-Face and FaceID-Plus share (Flamingo, arXiv 2204.14198, sec. 3.1).

Module names are the published checkpoint keys; hence the bare `nn.ModuleList` pairs and `nn.Sequential` indices.
"""

import torch
from torch import Tensor, nn

from nigaoe.core.attention import attend

DIM_HEAD = 64
"""Published width of a head; readers of files derive the number of heads from it."""


class PerceiverAttention(nn.Module):
    """Latents [B, M, D] attend to features and to themselves: [B, N + M, D]."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * DIM_HEAD, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * DIM_HEAD, bias=False)
        self.to_out = nn.Linear(heads * DIM_HEAD, dim, bias=False)

    def forward(self, features: Tensor, latents: Tensor) -> Tensor:
        features, latents = self.norm1(features), self.norm2(latents)
        k, v = self.to_kv(torch.cat([features, latents], 1)).chunk(2, -1)
        q, k, v = (x.unflatten(-1, (self.heads, DIM_HEAD)).transpose(1, 2) for x in (self.to_q(latents), k, v))
        return self.to_out(attend(q, k, v).transpose(1, 2).flatten(2))  # type: ignore[no-any-return]


def feed_forward(dim: int, mult: int = 4) -> nn.Sequential:
    """LayerNorm, then a bias-free MLP."""
    return nn.Sequential(
        nn.LayerNorm(dim), nn.Linear(dim, dim * mult, bias=False), nn.GELU(), nn.Linear(dim * mult, dim, bias=False)
    )


class Perceiver(nn.Module):
    """Latents [B, M, D] that look at features [B, N, E] `depth` times and leave as tokens [B, M, C]."""

    def __init__(self, embed_dim: int, dim: int, out_dim: int, heads: int, depth: int = 4) -> None:
        super().__init__()
        self.proj_in = nn.Linear(embed_dim, dim)
        self.proj_out = nn.Linear(dim, out_dim)
        self.norm_out = nn.LayerNorm(out_dim)
        self.layers = nn.ModuleList(
            nn.ModuleList([PerceiverAttention(dim, heads), feed_forward(dim)]) for _ in range(depth)
        )

    def refine(self, latents: Tensor, features: Tensor) -> Tensor:
        """Latents [B, M, D] after looking at features [B, N, E]: tokens [B, M, C]."""
        features = self.proj_in(features)
        for layer in self.layers:
            attention, mlp = layer.children()
            latents = attention(features, latents) + latents
            latents = mlp(latents) + latents
        return self.norm_out(self.proj_out(latents))  # type: ignore[no-any-return]
