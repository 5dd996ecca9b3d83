"""The published training step of IP-Adapter, said again in plain torch: one process, no cache, nothing of nigaoe.

After arXiv 2308.06721, sec. 3.2 and 4.1, and what its authors' scripts for the base, Plus, FaceID and SDXL do beyond
it: pictures resized by their short side (bilinear) and centre-cropped, frozen encoders in every step, one mean squared
error, AdamW. What is random can be given, so that two implementations can be given the same.

B rows, T text tokens, M image tokens, C text width, [h, w] latents.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from PIL import Image
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset
from transformers import (
    CLIPImageProcessorPil,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
    CLIPVisionModelWithProjection,
)

Kind = Literal["base", "plus", "faceid"]


class Sample(NamedTuple):
    """One picture at one place of the training order, with what is dropped there."""

    path: Path
    text: str
    drops_image: bool = False
    drops_text: bool = False
    identity: Tensor | None = None
    """Of the face, [I]; the published script reads it from a file beside the picture."""


class Pixels(NamedTuple):
    """What a data loader gives."""

    images: Tensor
    """In [-1, 1], [B, 3, H, W]."""
    clip_images: Tensor
    """As the image encoder's own preprocessing leaves them, [B, 3, S, S]."""
    token_ids: Tensor
    """[B, T]."""
    drops_image: Tensor
    """bool [B]."""
    identity: Tensor | None = None
    """[B, I]."""
    token_ids_2: Tensor | None = None
    """Of SDXL's second encoder, [B, T]."""
    time_ids: Tensor | None = None
    """What SDXL reads: original height and width, top and left of the crop, height and width, [B, 6]."""


class Encoded(NamedTuple):
    """What the frozen encoders make of it."""

    latents: Tensor
    """Scaled, [B, 4, h, w]."""
    features: Tensor
    """What the projection reads, [B, ...]."""
    text_states: Tensor
    """[B, T, C]."""
    added: dict[str, Tensor] | None = None
    """What SDXL reads beside."""


@dataclass(frozen=True)
class Frozen:
    """Every model that is not trained."""

    unet: UNet2DConditionModel
    vae: AutoencoderKL
    text_encoder: CLIPTextModel
    tokenizer: CLIPTokenizer
    image_encoder: CLIPVisionModelWithProjection
    processor: CLIPImageProcessorPil
    scheduler: DDPMScheduler
    text_encoder_2: CLIPTextModelWithProjection | None = None
    """SDXL's."""
    tokenizer_2: CLIPTokenizer | None = None

    @classmethod
    def load(cls, base: str | Path, image_encoder: str | Path) -> "Frozen":
        """A diffusers folder of Stable Diffusion, and a CLIP vision folder."""
        full: dict[str, Any] = {"torch_dtype": torch.float32}
        seeing = CLIPVisionModelWithProjection.from_pretrained(image_encoder, dtype=torch.float32)
        parts: dict[str, Any] = {
            "unet": UNet2DConditionModel.from_pretrained(base, subfolder="unet", **full),
            "vae": AutoencoderKL.from_pretrained(base, subfolder="vae", **full),
            "text_encoder": CLIPTextModel.from_pretrained(base, subfolder="text_encoder", dtype=torch.float32),
            "image_encoder": seeing,
        }
        if (Path(base) / "text_encoder_2").is_dir():
            parts["text_encoder_2"] = CLIPTextModelWithProjection.from_pretrained(
                base, subfolder="text_encoder_2", dtype=torch.float32
            )
        for model in parts.values():
            model.eval().requires_grad_(False)
        if "text_encoder_2" in parts:
            parts["tokenizer_2"] = CLIPTokenizer.from_pretrained(base, subfolder="tokenizer_2")
        return cls(
            **parts,
            tokenizer=CLIPTokenizer.from_pretrained(base, subfolder="tokenizer"),
            processor=CLIPImageProcessorPil.from_pretrained(image_encoder),
            scheduler=DDPMScheduler.from_pretrained(base, subfolder="scheduler"),
        )

    @property
    def dtype(self) -> torch.dtype:
        """Of the encoders; the UNet stays float32, as published."""
        dtype: torch.dtype = self.vae.dtype
        return dtype


# Data


def drops(number: float, image: float = 0.05, text: float = 0.05, both: float = 0.05) -> tuple[bool, bool]:
    """(image dropped, text dropped) by one number in [0, 1): the image alone, the text alone, both, or neither."""
    if number < image:
        return True, False
    if number < image + text:
        return False, True
    if number < image + text + both:
        return True, True
    return False, False


def training_picture(image: Image.Image, side_px: int) -> tuple[Tensor, list[int]]:
    """Short side to `side_px`, the middle square, [-1, 1]: float32 [3, side, side], and top and left of the square."""
    short, long = sorted(image.size)
    long = int(side_px * long / short)
    size = (side_px, long) if image.width <= image.height else (long, side_px)
    image = image.resize(size, Image.Resampling.BILINEAR)
    left, top = round((image.width - side_px) / 2), round((image.height - side_px) / 2)
    pixels = np.array(image.crop((left, top, left + side_px, top + side_px)))
    return torch.from_numpy(pixels).permute(2, 0, 1).float().div(255).sub(0.5).div(0.5), [top, left]


class Pictures(Dataset[dict[str, Tensor]]):
    """Files, decoded anew each time."""

    def __init__(self, frozen: Frozen, samples: Sequence[Sample], side_px: int) -> None:
        self.samples, self.side_px, self.processor = samples, side_px, frozen.processor
        self.tokenizer, self.tokenizer_2 = frozen.tokenizer, frozen.tokenizer_2

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        sample = self.samples[index]
        raw = Image.open(sample.path)
        text = "" if sample.drops_text else sample.text
        pixels, corner = training_picture(raw.convert("RGB"), self.side_px)
        row = {
            "images": pixels,
            "clip_images": torch.as_tensor(self.processor(images=raw, return_tensors="pt").pixel_values[0]),
            "token_ids": token_ids(self.tokenizer, [text])[0],
            "drops_image": torch.tensor(sample.drops_image),
        }
        if sample.identity is not None:
            row["identity"] = sample.identity
        if self.tokenizer_2 is not None:
            row["token_ids_2"] = token_ids(self.tokenizer_2, [text])[0]
            row["time_ids"] = torch.tensor([raw.height, raw.width, *corner, self.side_px, self.side_px]).float()
        return row


def token_ids(tokenizer: CLIPTokenizer, texts: Sequence[str]) -> Tensor:
    """Padded and cut, int64 [B, T]."""
    settings: dict[str, Any] = {"max_length": tokenizer.model_max_length, "padding": "max_length", "truncation": True}
    return tokenizer(list(texts), return_tensors="pt", **settings).input_ids  # type: ignore[no-any-return]


def collate(rows: Sequence[dict[str, Tensor]]) -> Pixels:
    """Rows to a batch."""
    return Pixels(**{name: torch.stack([row[name] for row in rows]) for name in rows[0]})


def loader(
    frozen: Frozen, samples: Sequence[Sample], side_px: int, batch_size: int, num_workers: int = 0
) -> Iterator[Pixels]:
    """Batches in the order of the samples. The published default is 0 workers."""
    data = Pictures(frozen, samples, side_px)
    return iter(DataLoader(data, batch_size, collate_fn=collate, num_workers=num_workers))


# Adapter


class ImageProjection(nn.Module):
    """A picture's embedding [B, E] to tokens [B, M, C]."""

    def __init__(self, embed_dim: int, width: int, num_tokens: int = 4) -> None:
        super().__init__()
        self.width, self.num_tokens = width, num_tokens
        self.proj = nn.Linear(embed_dim, num_tokens * width)
        self.norm = nn.LayerNorm(width)

    def forward(self, embeds: Tensor) -> Tensor:
        return self.norm(self.proj(embeds).reshape(-1, self.num_tokens, self.width))  # type: ignore[no-any-return]


class IdentityProjection(nn.Module):
    """A face's identity [B, I] to tokens [B, M, C]."""

    def __init__(self, identity_dim: int, width: int, num_tokens: int = 4) -> None:
        super().__init__()
        self.width, self.num_tokens = width, num_tokens
        self.proj = nn.Sequential(
            nn.Linear(identity_dim, 2 * identity_dim), nn.GELU(), nn.Linear(2 * identity_dim, num_tokens * width)
        )
        self.norm = nn.LayerNorm(width)

    def forward(self, identity: Tensor) -> Tensor:
        return self.norm(self.proj(identity).reshape(-1, self.num_tokens, self.width))  # type: ignore[no-any-return]


class PerceiverAttention(nn.Module):
    """Queries look at features and at themselves."""

    def __init__(self, dim: int, heads: int, dim_head: int = 64) -> None:
        super().__init__()
        self.heads, self.dim_head = heads, dim_head
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.to_q = nn.Linear(dim, heads * dim_head, bias=False)
        self.to_kv = nn.Linear(dim, 2 * heads * dim_head, bias=False)
        self.to_out = nn.Linear(heads * dim_head, dim, bias=False)

    def forward(self, x: Tensor, latents: Tensor) -> Tensor:
        x, latents = self.norm1(x), self.norm2(latents)
        rows = x.shape[0]

        def heads(y: Tensor) -> Tensor:
            return y.reshape(rows, -1, self.heads, self.dim_head).permute(0, 2, 1, 3)

        q = heads(self.to_q(latents))
        k, v = map(heads, self.to_kv(torch.cat((x, latents), dim=1)).chunk(2, dim=-1))
        # Split between both, which float16 forgives.
        scale = 1 / math.sqrt(math.sqrt(self.dim_head))
        weight = ((q * scale) @ (k * scale).transpose(2, 3)).float().softmax(dim=-1).to(v.dtype)
        return self.to_out((weight @ v).permute(0, 2, 1, 3).reshape(rows, -1, self.heads * self.dim_head))  # type: ignore[no-any-return]


class Resampler(nn.Module):
    """A picture's patches [B, N, E] to tokens [B, M, C], by learned queries."""

    def __init__(self, embed_dim: int, dim: int, width: int, heads: int, num_tokens: int = 16, depth: int = 4) -> None:
        super().__init__()
        self.latents = nn.Parameter(torch.randn(1, num_tokens, dim) / dim**0.5)
        self.proj_in, self.proj_out = nn.Linear(embed_dim, dim), nn.Linear(dim, width)
        self.norm_out = nn.LayerNorm(width)
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [
                    PerceiverAttention(dim, heads),
                    nn.Sequential(
                        nn.LayerNorm(dim),
                        nn.Linear(dim, 4 * dim, bias=False),
                        nn.GELU(),
                        nn.Linear(4 * dim, dim, bias=False),
                    ),
                ]
            )
            for _ in range(depth)
        )

    def forward(self, x: Tensor) -> Tensor:
        latents = self.latents.repeat(x.shape[0], 1, 1)
        x = self.proj_in(x)
        for layer in self.layers:
            attention, feed_forward = layer.children()
            latents = attention(x, latents) + latents
            latents = feed_forward(latents) + latents
        return self.norm_out(self.proj_out(latents))  # type: ignore[no-any-return]


class LowRank(nn.Module):
    """An addition to a linear layer that starts as nothing."""

    def __init__(self, inside: int, outside: int, rank: int) -> None:
        super().__init__()
        self.down, self.up = nn.Linear(inside, rank, bias=False), nn.Linear(rank, outside, bias=False)
        nn.init.normal_(self.down.weight, std=1 / rank)
        nn.init.zeros_(self.up.weight)

    def forward(self, x: Tensor) -> Tensor:
        return self.up(self.down(x))  # type: ignore[no-any-return]


class Processor(nn.Module):
    """One attention layer. In cross-attention the last `num_tokens` of the context are the picture's, eq. 5."""

    def __init__(self, attn: Any, num_tokens: int, rank: int = 0) -> None:
        super().__init__()
        self.is_cross, self.num_tokens, self.rank = bool(attn.is_cross_attention), num_tokens, rank
        hidden, context = attn.to_q.in_features, attn.to_k.in_features
        if rank:
            self.to_q_lora, self.to_out_lora = LowRank(hidden, hidden, rank), LowRank(hidden, hidden, rank)
            self.to_k_lora, self.to_v_lora = LowRank(context, hidden, rank), LowRank(context, hidden, rank)
        if self.is_cross:
            self.to_k_ip, self.to_v_ip = nn.Linear(context, hidden, bias=False), nn.Linear(context, hidden, bias=False)
            self.to_k_ip.load_state_dict(attn.to_k.state_dict())
            self.to_v_ip.load_state_dict(attn.to_v.state_dict())

    def forward(
        self, attn: Any, hidden_states: Tensor, encoder_hidden_states: Tensor | None = None, **_: Any
    ) -> Tensor:
        text = picture = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        if self.is_cross:
            text, picture = text[:, : -self.num_tokens], text[:, -self.num_tokens :]
        q, k, v = attn.to_q(hidden_states), attn.to_k(text), attn.to_v(text)
        if self.rank:
            q, k, v = q + self.to_q_lora(hidden_states), k + self.to_k_lora(text), v + self.to_v_lora(text)
        out = self._attend(attn, q, k, v)
        if self.is_cross:
            out = out + self._attend(attn, q, self.to_k_ip(picture), self.to_v_ip(picture))
        projected = attn.to_out[0](out)
        if self.rank:
            projected = projected + self.to_out_lora(out)
        return attn.to_out[1](projected)  # type: ignore[no-any-return]

    def _attend(self, attn: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        def heads(x: Tensor) -> Tensor:
            return x.reshape(x.shape[0], -1, attn.heads, x.shape[2] // attn.heads).permute(0, 2, 1, 3)

        q, k, v = heads(q), heads(k), heads(v)
        if self.rank:
            # The published script for FaceID trains without the fused kernel.
            out: Tensor = (q @ k.transpose(2, 3) * q.shape[3] ** -0.5).softmax(dim=-1) @ v
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        return out.permute(0, 2, 1, 3).flatten(2)


class PlainAdapter(nn.Module):
    """What is trained. Names are those of the published files: `image_proj.*`, `ip_adapter.N.*`."""

    def __init__(self, frozen: Frozen, kind: Kind, *, identity_dim: int = 512, rank: int = 128) -> None:
        super().__init__()
        self.kind: Kind = kind
        unet, seen = frozen.unet, frozen.image_encoder.config
        width = int(unet.config.cross_attention_dim)
        num_tokens = 16 if kind == "plus" else 4
        self.image_proj: nn.Module
        if kind == "base":
            self.image_proj = ImageProjection(int(seen.projection_dim), width)
        elif kind == "plus":
            # 12 heads of 64 are what the width of 768 makes; those for SDXL, whose text is 2048 wide, have 20.
            dim, most = (1280, 20) if width > 1024 else (width, 12)
            self.image_proj = Resampler(int(seen.hidden_size), dim, width, min(most, max(1, dim // 64)))
        else:
            self.image_proj = IdentityProjection(identity_dim, width)
        layers = [unet.get_submodule(name.removesuffix(".processor")) for name in unet.attn_processors]
        self.ip_adapter = nn.ModuleList(
            Processor(layer, num_tokens, rank if kind == "faceid" else 0) for layer in layers
        )
        unet.set_attn_processor(dict(zip(unet.attn_processors, self.ip_adapter, strict=True)))

    def forward(self, unet: UNet2DConditionModel, noisy: Tensor, timesteps: Tensor, given: Encoded) -> Tensor:
        context = torch.cat([given.text_states, self.image_proj(given.features)], dim=1)
        return unet(noisy, timesteps, context, added_cond_kwargs=given.added).sample  # type: ignore[no-any-return]


# Step


@torch.no_grad()
def encode(frozen: Frozen, kind: Kind, pixels: Pixels, posterior_noise: Tensor | None = None) -> Encoded:
    """Everything frozen that comes before the UNet. `posterior_noise`: [B, 4, h, w]; drawn when absent."""
    device, dtype = frozen.unet.device, frozen.dtype
    posterior = frozen.vae.encode(pixels.images.to(device, dtype)).latent_dist
    latents = posterior.sample() if posterior_noise is None else posterior.mean + posterior.std * posterior_noise
    latents = latents * frozen.vae.config.scaling_factor
    dropped = pixels.drops_image.to(device)
    if kind == "faceid":
        assert pixels.identity is not None
        features = pixels.identity.to(device, dtype) * ~dropped[:, None]
    elif kind == "plus":
        # Zeros after normalisation: a mean-grey picture, which the encoder sees.
        clip_images = pixels.clip_images.to(device, dtype) * ~dropped[:, None, None, None]
        features = frozen.image_encoder(clip_images, output_hidden_states=True).hidden_states[-2]
    else:
        features = frozen.image_encoder(pixels.clip_images.to(device, dtype)).image_embeds * ~dropped[:, None]
    return Encoded(latents, features, *encode_text(frozen, pixels))


@torch.no_grad()
def encode_text(frozen: Frozen, pixels: Pixels) -> tuple[Tensor, dict[str, Tensor] | None]:
    """States [B, T, C], and what SDXL reads beside them."""
    device = frozen.unet.device
    if frozen.text_encoder_2 is None or pixels.token_ids_2 is None or pixels.time_ids is None:
        return frozen.text_encoder(pixels.token_ids.to(device))[0], None
    first = frozen.text_encoder(pixels.token_ids.to(device), output_hidden_states=True)
    second = frozen.text_encoder_2(pixels.token_ids_2.to(device), output_hidden_states=True)
    states = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
    return states, {"text_embeds": second[0], "time_ids": pixels.time_ids.to(device)}


def loss_of(
    adapter: PlainAdapter,
    frozen: Frozen,
    encoded: Encoded,
    noise: Tensor | None = None,
    timesteps: Tensor | None = None,
) -> Tensor:
    """Mean squared error of the predicted noise. `noise` [B, 4, h, w] and `timesteps` [B] are drawn when absent."""
    latents = encoded.latents
    if noise is None:
        noise = torch.randn_like(latents)
    if timesteps is None:
        count = frozen.scheduler.config.num_train_timesteps
        timesteps = torch.randint(0, count, latents.shape[:1], device=latents.device)
    noisy = frozen.scheduler.add_noise(latents, noise, timesteps)
    is_mixed = frozen.dtype != frozen.unet.dtype
    with torch.autocast(latents.device.type, frozen.dtype, enabled=is_mixed):
        predicted = adapter(frozen.unet, noisy, timesteps, encoded)
    target = noise
    if frozen.scheduler.config.prediction_type == "v_prediction":
        # Beyond the published script, which takes every base for one that predicts noise.
        target = frozen.scheduler.get_velocity(latents, noise, timesteps)
    return F.mse_loss(predicted.float(), target.float())


def make_optimizer(adapter: PlainAdapter, lr: float = 1e-4, weight_decay: float = 1e-2) -> torch.optim.AdamW:
    """As published: one group, no schedule, no clipping."""
    return torch.optim.AdamW(adapter.parameters(), lr=lr, weight_decay=weight_decay)


def train_on(
    adapter: PlainAdapter,
    frozen: Frozen,
    batches: Iterator[Pixels],
    optimizer: torch.optim.Optimizer,
    draws: Callable[[int], tuple[Tensor | None, Tensor | None, Tensor | None]] = lambda step: (None, None, None),
) -> Iterator[float]:
    """Loss of each step, read after each one as published. `draws`: (posterior noise, noise, timesteps) of a step."""
    for step, pixels in enumerate(batches):
        posterior_noise, noise, timesteps = draws(step)
        encoded = encode(frozen, adapter.kind, pixels, posterior_noise)
        loss = loss_of(adapter, frozen, encoded, noise, timesteps)
        value = loss.item()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        yield value
