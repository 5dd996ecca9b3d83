"""FaceID and FaceID-Portrait: tokens from a face recogniser's identity vector."""

from torch import Tensor, nn


class IdentityProjModel(nn.Module):
    """Identity [B, I], or several photos of one person [B, F, I], to image tokens [B, F * M, C].

    FaceID has 4 tokens and a LoRA beside; FaceID-Portrait 16 per photo, usually of five photos. The unconditional
    identity is the zero vector.
    """

    def __init__(self, identity_dim: int, cross_attention_dim: int, num_tokens: int = 4) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Sequential(
            nn.Linear(identity_dim, identity_dim * 2),
            nn.GELU(),
            nn.Linear(identity_dim * 2, cross_attention_dim * num_tokens),
        )
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, identity: Tensor) -> Tensor:
        tokens = self.proj(identity).unflatten(-1, (self.num_tokens, -1))
        return self.norm(tokens.flatten(1, -2))  # type: ignore[no-any-return]
