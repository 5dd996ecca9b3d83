"""What an adapter file is, said in the words of its users."""

import hashlib
from dataclasses import dataclass
from pathlib import Path

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import StoredAdapter, read_adapter_file
from nigaoe.core.adapters.layouts import Layout
from nigaoe.core.adapters.variants import Feature, Variant
from nigaoe.core.errors import AdapterError

FAMILIES = {
    (16, 768): "Stable Diffusion 1.x",
    (16, 1024): "Stable Diffusion 2.x",
    (70, 2048): "Stable Diffusion XL",
    (7, 128): "toy",
}
"""Base families by (cross-attention layers, width of the text)."""

ENCODERS: dict[tuple[Feature, int], str] = {
    ("image_embeds", 1024): "OpenCLIP ViT-H/14, in h94/IP-Adapter as models/image_encoder",
    ("image_embeds", 1280): "OpenCLIP ViT-bigG/14, in h94/IP-Adapter as sdxl_models/image_encoder",
    ("image_embeds", 768): "CLIP ViT-L/14",
    ("image_embeds", 128): "toy/image_encoder",
    ("hidden_states", 1280): "OpenCLIP ViT-H/14, in h94/IP-Adapter as models/image_encoder",
    ("hidden_states", 1664): "OpenCLIP ViT-bigG/14, in h94/IP-Adapter as sdxl_models/image_encoder",
    ("hidden_states", 1024): "CLIP ViT-L/14",
    ("hidden_states", 128): "toy/image_encoder",
    ("identity", 512): "a face recogniser of 512 numbers, as insightface's buffalo_l",
}
"""Who speaks features of that width: what published adapters were trained with."""


@dataclass(frozen=True)
class AdapterFacts:
    """Everything about a file that its contents tell."""

    variants: tuple[str, ...]
    """More than one where keys and metadata leave a doubt."""
    family: str
    encoders: tuple[str, ...]
    num_tokens: int | None
    """Per picture; None: one per patch."""
    lora_rank: int | None
    parameters: int
    dtypes: tuple[str, ...]
    layout: Layout
    sha256: str
    metadata: dict[str, str]


def inspect_adapter(path: str | Path, variant: str | None = None) -> AdapterFacts:
    """Read a file and say what it is.

    Raises:
        AdapterError: It cannot be read or is no adapter.
    """
    stored = read_adapter_file(path)
    candidates = _candidates(stored, variant)
    adapter = IPAdapter.of_state(stored.state, candidates[0], stored.where)
    features = adapter.widths.features
    ranks = {value.shape[0] for key, value in stored.state.items() if key.endswith("_lora.down.weight")}
    return AdapterFacts(
        variants=tuple(kind.name for kind in candidates),
        family=family_of(adapter),
        encoders=tuple(ENCODERS.get(item, f"unknown ({item[0]} of width {item[1]})") for item in features.items()),
        num_tokens=adapter.num_tokens or None,
        lora_rank=max(ranks, default=None),
        parameters=sum(value.numel() for value in stored.state.values()),
        dtypes=tuple(sorted({str(value.dtype).removeprefix("torch.") for value in stored.state.values()})),
        layout=stored.layout,
        sha256=hashlib.sha256(stored.path.read_bytes()).hexdigest(),
        metadata={key: value for key, value in stored.metadata.items() if key != "format"},
    )


def family_of(adapter: IPAdapter) -> str:
    """The bases that an adapter fits, by its number of layers and their width."""
    layers = len(adapter.cross_layers)
    return FAMILIES.get(
        (layers, adapter.cross_attention_dim),
        f"unknown ({layers} cross-attention layers, text of width {adapter.cross_attention_dim})",
    )


def _candidates(stored: StoredAdapter, told: str | None) -> tuple[Variant, ...]:
    try:
        return (stored.variant(told),)
    except AdapterError:
        doubtful = stored.candidates()
        if told is not None or len(doubtful) < 2:
            raise
        return doubtful
