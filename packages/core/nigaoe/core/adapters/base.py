"""The base IP-Adapter, its light version and the ViT-G one: a few image tokens from one image embedding."""

from torch import Tensor, nn


class ImageProjModel(nn.Module):
    """Image embedding [B, E] to image tokens [B, M, C]: one linear layer, reshaped, layer-normed.

    The unconditional image is the zero embedding.
    """

    def __init__(self, embed_dim: int, cross_attention_dim: int, num_tokens: int = 4) -> None:
        super().__init__()
        self.num_tokens = num_tokens
        self.proj = nn.Linear(embed_dim, num_tokens * cross_attention_dim)
        self.norm = nn.LayerNorm(cross_attention_dim)

    def forward(self, image_embeds: Tensor) -> Tensor:
        tokens = self.proj(image_embeds).view(image_embeds.shape[0], self.num_tokens, -1)
        return self.norm(tokens)  # type: ignore[no-any-return]
