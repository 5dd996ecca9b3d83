"""Plus and Plus-Face: tokens that a resampler reads off every patch of the image, not off its summary alone."""

import torch
from torch import Tensor, nn

from nigaoe.core.adapters.resampler import Perceiver


class Resampler(Perceiver):
    """CLIP's penultimate hidden states [B, N, E] to image tokens [B, M, C]; M learned queries.

    Unnormalised FaceID-Portrait reads identities instead, [B, E] of one photo or [B, F, E] of several.
    The unconditional image is the resampled mean-grey picture: zeros after CLIP's normalisation, as in training.
    """

    def __init__(
        self, embed_dim: int, dim: int, out_dim: int, heads: int, num_tokens: int = 16, depth: int = 4
    ) -> None:
        super().__init__(embed_dim, dim, out_dim, heads, depth)
        self.num_tokens = num_tokens
        self.latents = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)

    def forward(self, features: Tensor) -> Tensor:
        features = features if features.dim() == 3 else features[:, None]
        return self.refine(self.latents.expand(len(features), -1, -1), features)
