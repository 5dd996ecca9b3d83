"""The CLIP image encoder of an adapter. It owns its preprocessing, so that a picture can go in one way only."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import torch
from safetensors import SafetensorError
from torch import Tensor
from transformers import CLIPImageProcessorPil, CLIPVisionConfig, CLIPVisionModelWithProjection

from nigaoe.core.errors import BaseModelError
from nigaoe.core.models import fingerprint, load_complete, locate, quiet_loading
from nigaoe.core.pixels import ImageLike, as_pil


class Impression(NamedTuple):
    """What a CLIP vision tower says of pictures."""

    image_embeds: Tensor
    """Projected summaries, float32 [B, E], not normalised."""
    hidden_states: Tensor
    """Penultimate states of every patch, float32 [B, N, D]."""


@dataclass(frozen=True, eq=False)
class ImageEncoder:
    """CLIP vision tower with projection, frozen, and the preprocessing it was trained with."""

    name: str
    model: CLIPVisionModelWithProjection
    processor: CLIPImageProcessorPil
    device: torch.device

    @property
    def embed_dim(self) -> int:
        """E of the embeddings."""
        return int(self.model.config.projection_dim)

    @property
    def side(self) -> int:
        """Of the squares that it sees, px."""
        return int(str(self.model.config.image_size))

    def preprocess(self, images: Sequence[ImageLike]) -> Tensor:
        """Pictures to normalised pixels [B, 3, S, S]."""
        return self._normalise(crop_pictures(self.processor, images))

    def _normalise(self, crops: Tensor) -> Tensor:
        pixels = self.processor(
            images=list(crops.numpy()),
            do_resize=False,
            do_center_crop=False,
            input_data_format="channels_first",
            return_tensors="pt",
        )["pixel_values"]
        return torch.as_tensor(pixels, dtype=torch.float32)

    @property
    def hidden_dim(self) -> int:
        """D of the hidden states."""
        return int(self.model.config.hidden_size)

    def encode(self, images: Sequence[ImageLike]) -> Tensor:
        """Pictures to projected embeddings, float32 [B, E], not normalised."""
        return self._look(self.preprocess(images)).image_embeds

    def look(self, images: Sequence[ImageLike]) -> Impression:
        """Pictures to all that adapters read of them."""
        return self._look(self.preprocess(images))

    def look_at_crops(self, crops: Tensor) -> Impression:
        """What `crop_pictures` made of pictures, uint8 [B, 3, S, S], to all that adapters read of them."""
        return self._look(self._normalise(crops))

    def look_at_nothing(self) -> Impression:
        """The mean-grey picture: zeros after normalisation, as adapters were trained to see when there is no image."""
        return self._look(torch.zeros(1, 3, self.side, self.side))

    @torch.no_grad()
    def _look(self, pixels: Tensor) -> Impression:
        out = self.model(pixels.to(self.device), output_hidden_states=True)
        return Impression(out.image_embeds.float(), out.hidden_states[-2].float())

    def fingerprint(self) -> str:
        """First 16 hex digits of the SHA-256 of its weights."""
        return fingerprint(self.model)


def crop_pictures(processor: CLIPImageProcessorPil, images: Sequence[ImageLike]) -> Tensor:
    """Pictures to the squares that an encoder sees, not normalised yet: uint8 [B, 3, S, S] on the CPU."""
    pictures = [as_pil(image) for image in images]
    pixels = processor(images=pictures, do_rescale=False, do_normalize=False, return_tensors="pt")["pixel_values"]
    return torch.as_tensor(pixels, dtype=torch.uint8)


def load_image_encoder(name: str, device: str | torch.device = "cpu") -> ImageEncoder:
    """Load by hub id, folder, or as `toy/image_encoder`; `h94/IP-Adapter` keeps its encoder in `models/image_encoder`.

    Raises:
        BaseModelError: It cannot be found or is not a CLIP vision model with projection.
    """
    path, subfolder = _place(name)
    try:
        with quiet_loading():
            model = load_complete(CLIPVisionModelWithProjection, path, subfolder)
    except (OSError, ValueError, SafetensorError) as error:
        raise _unloadable(name, error) from None
    target = torch.device(device)
    return ImageEncoder(name, model.to(target), load_processor(name), target)


def load_processor(name: str) -> CLIPImageProcessorPil:
    """The preprocessing of an encoder alone, without its weights.

    Raises:
        BaseModelError: The encoder cannot be found.
    """
    path, subfolder = _place(name)
    try:
        return CLIPImageProcessorPil.from_pretrained(path, subfolder=subfolder)
    except OSError:
        pass
    # The published adapter encoders come without a preprocessor config and were trained with CLIP's own.
    try:
        side = int(str(CLIPVisionConfig.from_pretrained(path, subfolder=subfolder).image_size))
    except OSError as error:
        raise _unloadable(name, error) from None
    return CLIPImageProcessorPil(size={"shortest_edge": side}, crop_size={"height": side, "width": side})


def read_encoder_config(name: str) -> CLIPVisionConfig:
    """Sizes of an encoder, without its weights.

    Raises:
        BaseModelError: The encoder cannot be found.
    """
    path, subfolder = _place(name)
    try:
        return CLIPVisionConfig.from_pretrained(path, subfolder=subfolder)
    except OSError as error:
        raise _unloadable(name, error) from None


def _place(name: str) -> tuple[str, str]:
    """Path or hub id, and the folder in it."""
    path = locate(name, "image encoder")
    is_published = name == "h94/IP-Adapter" or (Path(path) / "models" / "image_encoder").is_dir()
    return path, "models/image_encoder" if is_published else ""


def _unloadable(name: str, error: Exception) -> BaseModelError:
    reason = str(error).strip().splitlines()[0]
    return BaseModelError(f"image encoder {name!r} cannot be loaded ({reason}); give a CLIP vision folder or hub id")
