"""Adapter files: flat `.safetensors` in and out, the original `.bin` in."""

from pathlib import Path
from pickle import UnpicklingError

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nigaoe.core.adapters.base import IPAdapter
from nigaoe.core.errors import AdapterError

_SECTIONS = ("image_proj", "ip_adapter")
_REQUIRED = ("image_proj.proj.weight", "image_proj.proj.bias", "image_proj.norm.weight", "image_proj.norm.bias")


def save_adapter(
    adapter: IPAdapter, path: Path, metadata: dict[str, str] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write the published flat layout, whole or not at all."""
    state = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in adapter.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    save_file(state, part, metadata={"format": "pt", **(metadata or {})})
    # safetensors keeps files to their owner; an adapter is made to be shared.
    part.chmod(0o644)
    part.replace(path)


def read_adapter_state(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Flat state dict and metadata of a `.safetensors` or `.bin` file.

    Raises:
        AdapterError: Missing, unreadable, or not an adapter.
    """
    if not path.is_file():
        raise AdapterError(f"adapter file {str(path)!r} does not exist; give a .safetensors or .bin file")
    metadata: dict[str, str] = {}
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
                metadata = dict(file.metadata() or {})
        else:
            nested = torch.load(path, map_location="cpu", weights_only=True)
            state = {f"{s}.{k}": v for s in _SECTIONS for k, v in nested[s].items()}
    except (
        SafetensorError,
        RuntimeError,
        KeyError,
        TypeError,
        AttributeError,
        EOFError,
        OSError,
        UnpicklingError,
    ) as error:
        reason = str(error).splitlines()[0]
        raise AdapterError(
            f"adapter file {str(path)!r} cannot be read ({reason}); give a .safetensors or .bin adapter"
        ) from None
    missing = [key for key in _REQUIRED if key not in state]
    if missing or not any(key.endswith("to_k_ip.weight") for key in state):
        lacking = missing[0] if missing else "ip_adapter.*.to_k_ip.weight"
        raise AdapterError(f"adapter file {str(path)!r} is not a base IP-Adapter: it has no {lacking!r}")
    return state, metadata


def load_adapter(path: Path) -> IPAdapter:
    """Read a base adapter as float32, in evaluation mode.

    Raises:
        AdapterError: As `read_adapter_state`, or a key is left over.
    """
    state, _ = read_adapter_state(path)
    context_width = state["image_proj.norm.weight"].shape[0]
    out_features, embed_dim = state["image_proj.proj.weight"].shape
    sizes = {int(k.split(".")[1]): v.shape[0] for k, v in state.items() if k.endswith(".to_k_ip.weight")}
    adapter = IPAdapter(embed_dim, context_width, dict(sorted(sizes.items())), out_features // context_width)
    try:
        adapter.load_state_dict(state)
    except RuntimeError as error:
        reason = " ".join(str(error).split())
        raise AdapterError(f"adapter file {str(path)!r} does not fit its own variant ({reason})") from None
    return adapter.float().eval()
