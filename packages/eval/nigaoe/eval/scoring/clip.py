"""CLIP scores: how well a picture fits its words and its reference, as raw cosines."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, Float64
from PIL import Image
from transformers import CLIPImageProcessorPil, CLIPModel, CLIPTokenizer

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import locate
from nigaoe.core.pixels import as_pil
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

    @torch.no_grad()
    def features(self, images: Sequence[Image.Image]) -> Float32[np.ndarray, "N E"]:
        """Projected image embeddings, not normalised."""
        pixels = self.processor(images=[as_pil(image) for image in images], return_tensors="pt")["pixel_values"]
        return _embedding(self.model.get_image_features(torch.as_tensor(pixels).to(self.device)))

    @torch.no_grad()
    def text_features(self, texts: Sequence[str]) -> Float32[np.ndarray, "N E"]:
        """Projected text embeddings. Long texts are cut before their end token, whose position is the embedding."""
        length = int(self.model.text_model.config.max_position_embeddings)
        tokens = self.tokenizer(
            list(texts), padding="max_length", truncation=True, max_length=length, return_tensors="pt"
        )
        return _embedding(self.model.get_text_features(tokens.input_ids.to(self.device)))


def cosines(a: Float32[np.ndarray, "N E"], b: Float32[np.ndarray, "N E"]) -> Float64[np.ndarray, " N"]:
    """Cosine of each row of `a` with the same row of `b`."""
    x, y = a.astype(np.float64), b.astype(np.float64)
    return np.asarray((x * y).sum(axis=1) / (np.linalg.norm(x, axis=1) * np.linalg.norm(y, axis=1)))


def _embedding(output: Any) -> Float32[np.ndarray, "N E"]:
    # transformers 5 returns an object whose pooler_output is the projected embedding; before, it was the tensor itself.
    embedding = output if isinstance(output, torch.Tensor) else output.pooler_output
    return np.asarray(embedding.float().cpu().numpy())
