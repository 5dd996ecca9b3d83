"""Adapter files: the official `.safetensors` and `.bin` out, every published layout in."""

from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.layouts import Layout, flatten_adapter, nest_adapter
from nigaoe.core.adapters.variants import Variant, detect_variant, matching_variants
from nigaoe.core.errors import AdapterError

VARIANT_KEY = "nigaoe.variant"
"""Metadata of a `.safetensors` file that tells variants apart whose keys are the same."""


@dataclass(frozen=True)
class StoredAdapter:
    """A file's contents in the flat layout."""

    path: Path
    state: dict[str, Tensor]
    metadata: dict[str, str]
    layout: Layout

    @property
    def where(self) -> str:
        """How messages name it."""
        return f"adapter file {str(self.path)!r}"

    def variant(self, told: str | None = None) -> Variant:
        """Its variant, by content; where that leaves two, by its metadata or by what is `told`.

        Raises:
            AdapterError: No variant, or a doubt that nobody settled.
        """
        return detect_variant(self.state, told or self.metadata.get(VARIANT_KEY), self.where)

    def candidates(self) -> tuple[Variant, ...]:
        """Every variant that its keys could be."""
        return tuple(matching_variants(self.state))


def save_adapter(
    adapter: IPAdapter, path: Path, metadata: dict[str, str] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write the published layout, flat for `.safetensors` and nested for `.bin`, whole or not at all."""
    state = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in adapter.state_dict().items()}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_suffix(".part")
    if path.suffix == ".bin":
        torch.save(nest_adapter(state), part)
    else:
        save_file(state, part, metadata={"format": "pt", VARIANT_KEY: adapter.variant.name, **(metadata or {})})
    # safetensors keeps files to their owner; an adapter is made to be shared.
    part.chmod(0o644)
    part.replace(path)


def read_adapter_file(path: Path) -> StoredAdapter:
    """Read any published layout; a pickle only as weights.

    Raises:
        AdapterError: Missing, unreadable, or without the weights of an adapter.
    """
    if not path.is_file():
        raise AdapterError(f"adapter file {str(path)!r} does not exist; give a .safetensors or .bin file")
    metadata: dict[str, str] = {}
    raw: Any
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as file:
                raw = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
                metadata = dict(file.metadata() or {})
        else:
            raw = torch.load(path, map_location="cpu", weights_only=True)
        state, layout = flatten_adapter(raw)
    except UnpicklingError:
        raise AdapterError(
            f"adapter file {str(path)!r} holds more than weights, so it may run code and was not opened; "
            "convert it to .safetensors where it came from"
        ) from None
    except (SafetensorError, RuntimeError, TypeError, AttributeError, EOFError, OSError, ValueError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise AdapterError(
            f"adapter file {str(path)!r} cannot be read ({reason}); give a .safetensors or .bin adapter"
        ) from None
    stored = StoredAdapter(path, state, metadata, layout)
    if not any(key.endswith(".to_k_ip.weight") for key in state):
        raise AdapterError(f"{stored.where} is not an IP-Adapter: it has no 'ip_adapter.*.to_k_ip.weight'")
    return stored


def load_adapter(path: Path, variant: str | None = None) -> IPAdapter:
    """Read an adapter of any variant as float32, in evaluation mode. `variant` settles what keys cannot tell.

    Raises:
        AdapterError: As `read_adapter_file` and `StoredAdapter.variant`; a key is missing or left over; a weight is not
            a finite number.
    """
    stored = read_adapter_file(path)
    return IPAdapter.of_state(stored.state, stored.variant(variant), stored.where).float().eval()
