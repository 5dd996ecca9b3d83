"""Words in which adapters are described. No torch here, for whoever only reads descriptions."""

from typing import Literal

VariantName = Literal[
    "base", "plus", "full", "faceid", "faceid-plus", "faceid-plusv2", "portrait", "portrait-unnormalised"
]
Feature = Literal["image_embeds", "hidden_states", "identity"]
"""What an image encoder says: CLIP's projected embedding [B, E] or its penultimate hidden states [B, N, D]; or what a
face recogniser says: an identity [B, I]."""
LoraTarget = Literal["q", "k", "v", "out"]
"""Projections of an attention layer."""
