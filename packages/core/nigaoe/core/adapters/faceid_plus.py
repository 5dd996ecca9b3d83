"""FaceID-Plus v1 and v2: identity tokens that look once more at the face's CLIP features."""

from torch import Tensor, nn

from nigaoe.core.adapters.resampler import DIM_HEAD, Perceiver


class ProjPlusModel(nn.Module):
    """Identity [B, I] and CLIP's penultimate hidden states [B, N, E] of the face to image tokens [B, M, C].

    v2 adds what the resampler saw to the identity tokens, weighted (`s_scale` in the original code); v1 replaces them.
    Both have the same keys.
    """

    def __init__(
        self, identity_dim: int, embed_dim: int, cross_attention_dim: int, num_tokens: int = 4, *, shortcut: bool
    ) -> None:
        super().__init__()
        self.num_tokens, self.shortcut = num_tokens, shortcut
        self.proj = nn.Sequential(
            nn.Linear(identity_dim, identity_dim * 2),
            nn.GELU(),
            nn.Linear(identity_dim * 2, cross_attention_dim * num_tokens),
        )
        self.norm = nn.LayerNorm(cross_attention_dim)
        heads = max(1, cross_attention_dim // DIM_HEAD)
        self.perceiver_resampler = Perceiver(embed_dim, cross_attention_dim, cross_attention_dim, heads)

    def forward(self, identity: Tensor, hidden_states: Tensor, shortcut_scale: float = 1.0) -> Tensor:
        tokens = self.norm(self.proj(identity).unflatten(-1, (self.num_tokens, -1)))
        seen = self.perceiver_resampler.refine(tokens, hidden_states)
        return tokens + shortcut_scale * seen if self.shortcut else seen
