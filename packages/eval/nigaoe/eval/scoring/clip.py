"""CLIP scores: how well a picture fits its words and its reference, as raw cosines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float32, Float64, Int64
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import locate
from nigaoe.eval.scoring.pictures import Pictures, pictures
from nigaoe.eval.scoring.preprocessing import preprocessing_of
from nigaoe.eval.scoring.weights import model_fingerprint


@dataclass(frozen=True, eq=False)
class ClipScorer:
    """A CLIP with its preprocessing; also a `FeatureExtractor`."""

    model: CLIPModel
    processor: CLIPImageProcessorPil
    tokenizer: CLIPTokenizer
    device: torch.device
    fingerprint: str
    name: str = "clip"

    @classmethod
    def load(cls, name: str, device: str | torch.device = "cpu") -> "ClipScorer":
        """Load by hub id, folder, or as `toy/clip`.

        Raises:
            BaseModelError: It cannot be found or is not a CLIP.
        """
        path = locate(name, "scoring CLIP")
        try:
            model = CLIPModel.from_pretrained(path, dtype=torch.float32)
            processor = CLIPImageProcessorPil.from_pretrained(path)
            tokenizer = CLIPTokenizer.from_pretrained(path)
        except (OSError, ValueError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BaseModelError(
                f"scoring CLIP {name!r} cannot be loaded ({reason}); give a CLIP folder or hub id"
            ) from None
        target = torch.device(device)
        model.to(target)  # type: ignore[arg-type]
        model.eval().requires_grad_(False)
        return cls(model, processor, tokenizer, target, model_fingerprint(name, "scoring CLIP"))

    @property
    def dim(self) -> int:
        """E, of pictures as of texts."""
        return int(self.model.visual_projection.out_features)

    @property
    def preprocessing(self) -> str:
        """As its own files say."""
        return preprocessing_of(self.processor)

    @torch.no_grad()
    def features(self, images: Pictures) -> Float32[np.ndarray, "N E"]:
        """Projected image embeddings, not normalised."""
        pixels = self.processor(images=pictures(images), return_tensors="pt")["pixel_values"]
        return _embedding(self.model.get_image_features(torch.as_tensor(pixels).to(self.device)))

    @property
    def text_length(self) -> int:
        """Tokens that are read of a text, both ends counted: 77 in the published models."""
        return int(self.model.text_model.config.max_position_embeddings)

    def tokens(self, texts: Sequence[str]) -> Int64[Tensor, "N T"]:
        """Ids of the texts. Long ones are cut before their end token, whose position is the embedding."""
        # To the longest: what follows an end token changes nothing, and 77 tokens take as long as a picture.
        tokens = self.tokenizer(
            list(texts), padding=True, truncation=True, max_length=self.text_length, return_tensors="pt"
        )
        return tokens.input_ids  # type: ignore[no-any-return]

    def are_cut(self, texts: Sequence[str]) -> Bool[np.ndarray, " N"]:
        """Which texts are longer than what is read of them."""
        # Not verbose: that a text is longer than the model reads is what is asked.
        ids = self.tokenizer(list(texts), verbose=False).input_ids
        return np.array([len(row) > self.text_length for row in ids], dtype=bool)

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """Projected text embeddings, not normalised."""
        return _embedding(self.model.get_text_features(self.tokens(texts).to(self.device)))


def cosines(a: Float32[np.ndarray, "N E"], b: Float32[np.ndarray, "N E"]) -> Float64[np.ndarray, " N"]:
    """Cosine of each row of `a` with the same row of `b`."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((x * y).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)))


def _embedding(output: Any) -> Float32[np.ndarray, "N E"]:
    # transformers 5 returns an object whose pooler_output is the projected embedding; before, it was the tensor itself.
    embedding = output if isinstance(output, torch.Tensor) else output.pooler_output
    return np.asarray(embedding.float().cpu().numpy())
