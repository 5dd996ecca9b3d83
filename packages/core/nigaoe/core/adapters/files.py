"""Adapter files: the official `.safetensors` and `.bin` out, every published layout in."""

import json
import struct
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.fetching import fetch_adapter, is_address, is_published
from nigaoe.core.adapters.layouts import Layout, flatten_adapter, nest_adapter
from nigaoe.core.adapters.variants import Variant, detect_variant, matching_variants
from nigaoe.core.errors import AdapterError
from nigaoe.core.models import TOY_NAMES, locate

VARIANT_KEY = "nigaoe.variant"
"""Metadata of a `.safetensors` file that tells variants apart whose keys are the same."""

ORIGIN_KEY = "nigaoe"
"""Metadata of trained files: JSON of the variant, the base, the image encoder and, if any, the face encoder."""

FILE_NAME = "adapter.safetensors"
"""Of the adapter in a folder that training wrote."""

# All that torch and its zip reader were seen to raise on damaged bytes.
_DAMAGE = (
    *(RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, AssertionError),
    *(EOFError, OSError, struct.error, SafetensorError),
)


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

    def origin(self, what: str) -> str | None:
        """Which `base`, `image_encoder` or `face_encoder` it was trained with; None: it does not say."""
        try:
            said = json.loads(self.metadata.get(ORIGIN_KEY, "{}"))
        except (ValueError, RecursionError):
            return None
        name = said.get(what) if isinstance(said, dict) else None
        return name if isinstance(name, str) else None

    def candidates(self) -> tuple[Variant, ...]:
        """Every variant that its keys could be."""
        return tuple(matching_variants(self.state))


def save_adapter(
    adapter: IPAdapter, path: str | Path, metadata: dict[str, str] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write the published layout, flat for `.safetensors` and nested for `.bin`, whole or not at all.

    Raises:
        AdapterError: There can be no file of that name.
    """
    path = Path(path)
    state = {k: v.detach().to("cpu", dtype or v.dtype).contiguous() for k, v in adapter.state_dict().items()}
    part = path.with_suffix(".part")
    try:
        if path.is_dir():
            raise IsADirectoryError(0, "it is a folder")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            # Here, where failures have names; those of the writers below have not.
            part.touch()
            if path.suffix == ".bin":
                torch.save(nest_adapter(state), part)
            else:
                save_file(state, part, metadata={"format": "pt", VARIANT_KEY: adapter.variant.name, **(metadata or {})})
            # safetensors keeps files to their owner; an adapter is made to be shared.
            part.chmod(0o644)
            part.replace(path)
        except BaseException:
            part.unlink(missing_ok=True)
            raise
    except (OSError, RuntimeError, SafetensorError) as error:
        raise AdapterError(
            f"adapter file {str(path)!r} cannot be written ({_reason(error)}); choose another place or make room there"
        ) from None


def _reason(error: Exception) -> str:
    if isinstance(error, FileExistsError | NotADirectoryError):
        return f"{error.filename!r} is no folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return next(iter(str(error).splitlines()), type(error).__name__)


def read_adapter_file(path: str | Path) -> StoredAdapter:
    """Read any published layout, told apart by content; a pickle only as weights.

    Args:
        path: A file, a folder of a run or of a registry, `toy/adapter`, or an address in a bucket.

    Raises:
        AdapterError: Missing, unreadable, or without the weights of an adapter.
        BaseModelError: A name that the toy world does not have.
    """
    path = fetch_adapter(str(path)) if is_address(path) else adapter_file(Path(path))
    where = f"adapter file {str(path)!r}"
    metadata: dict[str, str] = {}
    raw: Any = None
    try:
        with path.open("rb") as file:
            head = file.read(9)
    except OSError as error:
        raise AdapterError(f"{where} cannot be read ({_reason(error)}); make it readable or copy it again") from None
    try:
        if head[8:] == b"{":
            with safe_open(path, framework="pt") as stored:
                raw = {key: stored.get_tensor(key) for key in stored.keys()}  # noqa: SIM118 - not a mapping
                metadata = dict(stored.metadata() or {})
        elif head.startswith((b"PK", b"\x80")):
            # By its name torch would take it for safetensors where it is called so.
            with path.open("rb") as file, warnings.catch_warnings():
                # Of damaged files torch warns before it fails; one sentence about them is enough.
                warnings.simplefilter("ignore")
                raw = torch.load(file, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise AdapterError(
            f"{where} holds more than weights, so it may run code and was not opened; "
            "convert it to .safetensors where it came from"
        ) from None
    except _DAMAGE:
        raw = None
    if raw is None:
        raise AdapterError(f"{where} is damaged, truncated or no adapter at all; download it again")
    named = {key: value for key, value in raw.items() if isinstance(key, str)} if isinstance(raw, Mapping) else {}
    state, layout = flatten_adapter(named)
    if not any(key.endswith(".to_k_ip.weight") for key in state):
        raise AdapterError(
            f"{where} is not an IP-Adapter: it has no 'ip_adapter.*.to_k_ip.weight'; "
            "give a .safetensors or .bin adapter"
        )
    return StoredAdapter(path, state, metadata, layout)


def adapter_file(path: Path) -> Path:
    """The file that a path or a name of the toy world means.

    Raises:
        AdapterError: There is none.
        BaseModelError: A name that the toy world does not have.
    """
    name = path.as_posix()
    try:
        if name.startswith("toy/") and (name in TOY_NAMES or not (path.suffix or path.exists())):
            path = Path(locate(name, "adapter"))
        if is_published(path):
            return fetch_adapter(str(path))
        if path.is_dir():
            if not (path / FILE_NAME).is_file():
                raise AdapterError(f"{name!r} is a folder without {FILE_NAME!r}; give a .safetensors or .bin file")
            return path / FILE_NAME
        if path.is_file():
            return path
    except OSError as error:
        raise AdapterError(f"adapter file {name!r} cannot be read ({_reason(error)}); mend the path") from None
    raise AdapterError(f"adapter file {name!r} does not exist; give a .safetensors or .bin file")


def load_adapter(path: str | Path, variant: str | None = None) -> IPAdapter:
    """Read an adapter of any variant as float32, in evaluation mode. `variant` settles what keys cannot tell.

    Raises:
        AdapterError: As `read_adapter_file` and `StoredAdapter.variant`; a key is missing or left over; a weight is not
            a finite number.
        BaseModelError: As `read_adapter_file`.
    """
    stored = read_adapter_file(path)
    return IPAdapter.of_state(stored.state, stored.variant(variant), stored.where).float().eval()
