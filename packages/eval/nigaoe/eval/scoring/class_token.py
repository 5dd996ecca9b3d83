"""Image embeddings by the class token of a vision transformer: DINO, DINOv2. What DINO-I looks through."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from safetensors import SafetensorError
from transformers import AutoConfig, AutoModel, BitImageProcessorPil, ViTImageProcessorPil

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import load_complete, locate, quiet_loading
from nigaoe.eval.scoring.pictures import Pictures, pictures
from nigaoe.eval.scoring.preprocessing import preprocessing_of
from nigaoe.eval.scoring.weights import model_fingerprint

_PROCESSORS = {"dinov2": BitImageProcessorPil, "vit": ViTImageProcessorPil}
"""By the kind of model; DINO's own weights are published as a `vit`."""


@dataclass(frozen=True, eq=False)
class ClassTokenEncoder:
    """A vision transformer with its preprocessing; a `FeatureExtractor`."""

    model: Any
    processor: Any
    device: torch.device
    fingerprint: str
    name: str

    @classmethod
    def load(cls, name: str, called: str, device: str | torch.device = "cpu") -> "ClassTokenEncoder":
        """Load by hub id or folder; `called` names the figures, such as `dino_vits16`.

        Raises:
            BaseModelError: It cannot be found, lacks a weight, or is neither a ViT nor a DINOv2.
        """
        path = locate(name, "vision transformer")
        try:
            with quiet_loading():
                kind = str(AutoConfig.from_pretrained(path).model_type)
                if kind not in _PROCESSORS:
                    raise ValueError(f"it is a {kind!r}, not one of {', '.join(_PROCESSORS)}")
                # DINO is published without the weights of a pooler, which nobody asks here.
                bare: dict[str, Any] = {"add_pooling_layer": False} if kind == "vit" else {}
                model = load_complete(AutoModel, path, **bare)
                processor = _PROCESSORS[kind].from_pretrained(path)
        except (OSError, ValueError, SafetensorError) as error:
            reason = str(error).strip().splitlines()[0]
            raise BaseModelError(
                f"vision transformer {name!r} cannot be loaded ({reason}); give a folder or hub id of a ViT or DINOv2"
            ) from None
        target = torch.device(device)
        return cls(model.to(target), processor, target, model_fingerprint(name, "vision transformer"), called)

    @property
    def dim(self) -> int:
        """E."""
        return int(self.model.config.hidden_size)

    @property
    def preprocessing(self) -> str:
        """As its own files say."""
        return preprocessing_of(self.processor)

    @torch.no_grad()
    def features(self, images: Pictures) -> Float32[np.ndarray, "N E"]:
        """Last states of the class token, after the final norm."""
        pixels = self.processor(images=pictures(images), return_tensors="pt")["pixel_values"]
        states = self.model(torch.as_tensor(pixels).to(self.device)).last_hidden_state
        return np.asarray(states[:, 0].float().cpu().numpy())
