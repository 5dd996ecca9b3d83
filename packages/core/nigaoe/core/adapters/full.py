"""Full-Face: every patch of the image becomes a token (257 with ViT-H)."""

from torch import Tensor, nn


class MLPProjModel(nn.Module):
    """CLIP's penultimate hidden states [B, N, E] to N image tokens [B, N, C]."""

    def __init__(self, embed_dim: int, cross_attention_dim: int) -> None:
        super().__init__()
        self.proj = nn.Sequential(
            nn.Linear(embed_dim, embed_dim),
            nn.GELU(),
            nn.Linear(embed_dim, cross_attention_dim),
            nn.LayerNorm(cross_attention_dim),
        )

    def forward(self, hidden_states: Tensor) -> Tensor:
        return self.proj(hidden_states)  # type: ignore[no-any-return]
