"""Precomputed embeddings: what an encoder said of pictures, in a file, so that it need not be loaded or asked again.

- our own: safetensors with `conditional.<feature>` and `unconditional.<feature>`, and the encoder in the metadata;
- diffusers' `.ipadpt`: a pickled list of one tensor per adapter, [R, n, E] or [R, n, N, D]: n pictures for each of R
  rows, under guidance the unconditional half of the rows first (`prepare_ip_adapter_image_embeds`);
- ComfyUI's `.ipadpt`: one pickled tensor, positive or negative, [B, E] or [B, N, D].
"""

import json
import os
import struct
import uuid
import warnings
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, get_args

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load, save, save_file
from torch import Tensor

from nigaoe.core.adapters.variants import IDENTITY_DIM, Feature
from nigaoe.core.errors import AdapterError, ImageError

FORMAT = "nigaoe.embeddings/1"

MAX_VALUES = 2**28
"""Of one tensor, 1 GiB as float32; a pickle of some bytes can claim any size."""

_FEATURES: dict[str, Feature] = {name: name for name in get_args(Feature)}
_SHAPES: dict[Feature, str] = {
    "image_embeds": "[B, E]",
    "hidden_states": "[B, N, D]",
    "identity": "[B, I] or [B, F, I]",
}
_RANKS: dict[Feature, tuple[int, ...]] = {"image_embeds": (2,), "hidden_states": (3,), "identity": (2, 3)}

# All that torch and its zip reader were seen to raise on damaged bytes.
_DAMAGE = (RuntimeError, ValueError, LookupError, TypeError, AttributeError, ArithmeticError, EOFError, OSError)


@dataclass(frozen=True, eq=False)
class StoredEmbeddings:
    """What a file says of B pictures; float32."""

    conditional: Mapping[Feature, Tensor]
    """[B, ...] of each feature."""
    unconditional: Mapping[Feature, Tensor]
    """What guidance moves away from, [1, ...] or [B, ...]; hidden states of no picture may be lacking."""
    encoder: str | None = None
    """Name of the encoder; None: the file does not say."""
    fingerprint: str | None = None
    """Of the encoder's weights, as `ImageEncoder.fingerprint`; None: the file does not say."""
    where: str = "what was stored"
    """How messages name them."""
    crop: str | None = None
    """How pictures were made square before the encoder saw them; None: the file does not say."""

    def __len__(self) -> int:
        return len(next(iter(self.conditional.values())))

    def in_order(self, inputs: Sequence[Feature]) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Conditional and unconditional features in the order of a variant's `inputs`.

        Raises:
            AdapterError: One that the variant reads is lacking.
        """
        for feature in inputs:
            if feature not in self.conditional:
                raise AdapterError(
                    f"the adapter reads {feature}, {self.where} has {', '.join(self.conditional)}; "
                    "encode the pictures for this adapter"
                )
            if feature not in self.unconditional:
                raise AdapterError(
                    f"{self.where} has {feature} of pictures but not of no picture, which guidance needs; "
                    "save it with guidance on, or add a negative by `against`"
                )
        return tuple(self.conditional[name] for name in inputs), tuple(self.unconditional[name] for name in inputs)

    def against(self, negative: "StoredEmbeddings") -> "StoredEmbeddings":
        """The same pictures with those of `negative` to move away from, as ComfyUI keeps the two apart.

        Raises:
            ImageError: Other features, widths or encoder, or neither one picture nor as many.
        """
        if self.fingerprint and negative.fingerprint and self.fingerprint != negative.fingerprint:
            raise ImageError(f"{self.where} and {negative.where} are of different encoders; encode both with one")
        _require_agreement(self.conditional, negative.conditional, f"{self.where} with {negative.where} as negative")
        return replace(self, unconditional=negative.conditional)


def save_embeddings(
    path: Path,
    conditional: Mapping[Feature, Tensor],
    unconditional: Mapping[Feature, Tensor],
    encoder: str,
    fingerprint: str,
) -> None:
    """Write our own format, whole or not at all, in the dtypes given.

    Raises:
        ImageError: Another suffix than `.safetensors`, or what `load_embeddings` would refuse.
    """
    where = f"embedding file {str(path)!r}"
    if path.suffix != ".safetensors":
        raise ImageError(f"{where} would be written as safetensors; give it a name that ends in .safetensors")
    _require_whole(_checked(conditional, where), _checked(unconditional, where), where)
    halves = {"conditional": conditional, "unconditional": unconditional}
    state = {
        f"{half}.{feature}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for half, tensors in halves.items()
        for feature, tensor in tensors.items()
    }
    metadata = {"format": FORMAT, "encoder": encoder, "encoder_sha256": fingerprint}
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{uuid.uuid4().hex}.part")
    try:
        save_file(state, part, metadata=metadata)
        # safetensors keeps files to their owner; embeddings are made to be shared.
        part.chmod(0o644)
        os.replace(part, path)
    finally:
        part.unlink(missing_ok=True)


def embedding_bytes(stored: StoredEmbeddings) -> bytes:
    """A file of our own format.

    Raises:
        ImageError: What `parse_embeddings` would refuse.
    """
    halves = {"conditional": stored.conditional, "unconditional": stored.unconditional}
    _require_whole(
        _checked(stored.conditional, stored.where), _checked(stored.unconditional, stored.where), stored.where
    )
    state = {
        f"{half}.{feature}": tensor.detach().cpu().clone(memory_format=torch.contiguous_format)
        for half, tensors in halves.items()
        for feature, tensor in tensors.items()
    }
    metadata = {"format": FORMAT, "encoder": stored.encoder or "", "encoder_sha256": stored.fingerprint or ""}
    return save(state, metadata if stored.crop is None else {**metadata, "crop": stored.crop})


def parse_embeddings(content: bytes, where: str = "the embedding file") -> StoredEmbeddings:
    """Read our own format, and no other, from memory.

    Raises:
        ImageError: Damaged, of another format, or with tensors that cannot be embeddings.
    """
    try:
        state = load(content)
        length = int.from_bytes(content[:8], "little")
        metadata = json.loads(content[8 : 8 + length]).get("__metadata__") or {}
    except (SafetensorError, *_DAMAGE):
        raise _damaged(where) from None
    return _own(state, metadata, where)


def load_embeddings(
    path: Path, feature: Feature | None = None, guided: bool | None = None, index: int | None = None
) -> StoredEmbeddings:
    """Read any of the three kinds, told apart by content; a pickle only as tensors. The options are for pickles.

    Args:
        path: The file.
        feature: What the tensor is, where its shape leaves that open: identities are as wide as some embeddings.
        guided: Whether the first half of the rows is unconditional, where the values leave that open.
        index: Which adapter's tensor to read, from 0, where there are several.

    Raises:
        ImageError: Missing, damaged, of another format, with code in it, or with tensors that cannot be embeddings; or
            a doubt that an option has to settle.
    """
    where = f"embedding file {str(path)!r}"
    if not path.is_file():
        raise ImageError(f"{where} does not exist; give a .safetensors or .ipadpt file")
    with path.open("rb") as file:
        head = file.read(9)
    if head[8:] == b"{":
        return _read_own(path, where)
    if not head.startswith(b"PK"):
        raise ImageError(f"{where} is {_other_kind(head)}; save the embeddings as .safetensors or by torch.save")
    _require_stored(path, where)
    tensor, is_listed = _pick(_unpickle(path, where), index, where)
    return _interpret(_as_float(tensor, "its tensor", where), is_listed, feature, guided, where)


def _damaged(where: str) -> ImageError:
    return ImageError(f"{where} is damaged or truncated; save the embeddings again or copy the file again")


def _read_own(path: Path, where: str) -> StoredEmbeddings:
    try:
        with safe_open(path, framework="pt") as file:
            metadata = dict(file.metadata() or {})
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 - not a mapping
    except (SafetensorError, *_DAMAGE):
        raise _damaged(where) from None
    return _own(state, metadata, where)


def _own(state: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> StoredEmbeddings:
    if metadata.get("format") != FORMAT:
        raise ImageError(
            f"{where} is of format {metadata.get('format')!r}, this version reads {FORMAT!r}; "
            "save the embeddings with save_embeddings"
        )
    for key in ("encoder", "encoder_sha256"):
        if key not in metadata:
            raise ImageError(f"{where} has no {key!r} in its metadata; save the embeddings with save_embeddings")
    halves: dict[str, dict[str, Tensor]] = {"conditional": {}, "unconditional": {}}
    for key, tensor in state.items():
        half, _, name = key.partition(".")
        if half not in halves:
            raise ImageError(f"{where} has a tensor {key!r}, which embeddings have not; remove it")
        halves[half][name] = tensor
    conditional, unconditional = (_checked(half, where) for half in halves.values())
    _require_whole(conditional, unconditional, where)
    encoder, fingerprint, crop = metadata["encoder"], metadata["encoder_sha256"] or None, metadata.get("crop")
    return StoredEmbeddings(conditional, unconditional, encoder, fingerprint, where, crop)


def _checked(tensors: Mapping[Any, Tensor], where: str) -> dict[Feature, Tensor]:
    """By feature, float32, every one of a shape and values that embeddings can have."""
    unknown = [name for name in tensors if name not in _FEATURES]
    if unknown:
        raise ImageError(f"{where} has a feature {unknown[0]!r}; features are {', '.join(_FEATURES)}")
    return {_FEATURES[name]: _shaped(_FEATURES[name], tensor, where) for name, tensor in tensors.items()}


def _shaped(feature: Feature, tensor: Tensor, where: str) -> Tensor:
    if tensor.dim() not in _RANKS[feature]:
        raise ImageError(f"{where} has {feature} of shape {list(tensor.shape)}; they must be {_SHAPES[feature]}")
    return _as_float(tensor, feature, where)


def _as_float(tensor: Tensor, what: str, where: str) -> Tensor:
    if not tensor.is_floating_point() or tensor.layout != torch.strided or tensor.is_meta:
        raise ImageError(f"{where} has {what} as {_kind(tensor)}; save dense floats: float32, float16 or bfloat16")
    if not 0 < tensor.numel() <= MAX_VALUES:
        raise ImageError(
            f"{where} has {what} of shape {list(tensor.shape)}, which is {tensor.numel()} values; "
            f"there must be at least 1 and at most {MAX_VALUES}"
        )
    values = tensor.detach().float().contiguous()
    if not torch.isfinite(values).all():
        raise ImageError(f"{where} has {what} with values that are no finite numbers; encode the pictures again")
    return values


def _kind(tensor: Tensor) -> str:
    if tensor.is_meta:
        return "a shape without values"
    layout = "" if tensor.layout == torch.strided else f"{str(tensor.layout).removeprefix('torch.')} "
    return f"{layout}{str(tensor.dtype).removeprefix('torch.')}"


def _require_whole(conditional: Mapping[Feature, Tensor], unconditional: Mapping[Feature, Tensor], where: str) -> None:
    """The same features on both sides, at least one, and all of one batch."""
    if not conditional:
        raise ImageError(f"{where} has no 'conditional.<feature>'; features are {', '.join(_FEATURES)}, save one")
    for feature in sorted(conditional.keys() ^ unconditional.keys()):
        have, lack = ("", "un") if feature in conditional else ("un", "")
        raise ImageError(f"{where} has '{have}conditional.{feature}' but not '{lack}conditional.{feature}'; save both")
    _require_agreement(conditional, unconditional, where)


def _require_agreement(
    conditional: Mapping[Feature, Tensor], unconditional: Mapping[Feature, Tensor], where: str
) -> None:
    """One batch for all features, and the unconditional of the same widths, once or for each picture."""
    sizes = {feature: len(tensor) for feature, tensor in conditional.items()}
    if len(set(sizes.values())) > 1:
        listed = ", ".join(f"{size} of {feature}" for feature, size in sorted(sizes.items()))
        raise ImageError(f"{where} has rows for different numbers of pictures ({listed}); save as many of each")
    for feature, tensor in conditional.items():
        if feature not in unconditional:
            raise ImageError(f"{where} has {feature} on the positive side only; give both of one kind")
        other = unconditional[feature]
        if other.shape[1:] != tensor.shape[1:]:
            raise ImageError(
                f"{where} has {feature} of shape {list(tensor.shape)} and unconditional ones of {list(other.shape)}; "
                "encode both with one encoder"
            )
        if len(other) not in (1, len(tensor)):
            raise ImageError(
                f"{where} has {len(tensor)} rows of {feature} and {len(other)} unconditional ones; "
                f"give one or {len(tensor)} of those"
            )


def _other_kind(head: bytes) -> str:
    if not head:
        return "empty"
    # Of all protocols since 2; torch.save wraps them in an archive since version 1.6, of 2020.
    return "a bare pickle, which may run code and was not opened" if head.startswith(b"\x80") else "of no known format"


def _require_stored(path: Path, where: str) -> None:
    """Refuse what torch.save does not write: a packed archive, which may unfold to any size."""
    try:
        with zipfile.ZipFile(path) as archive:
            is_packed = any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist())
    except (zipfile.BadZipFile, NotImplementedError, *_DAMAGE):
        raise _damaged(where) from None
    if is_packed:
        raise ImageError(f"{where} is a compressed archive, not one of torch.save; save the embeddings by torch.save")


def _unpickle(path: Path, where: str) -> object:
    try:
        with warnings.catch_warnings():
            # Of damaged files torch warns before it fails; one sentence about them is enough.
            warnings.simplefilter("ignore")
            return torch.load(path, map_location="cpu", weights_only=True)
    except UnpicklingError:
        raise ImageError(
            f"{where} holds more than tensors, so it may run code and was not opened; save the tensors alone"
        ) from None
    except (struct.error, *_DAMAGE):
        raise _damaged(where) from None


def _pick(raw: object, index: int | None, where: str) -> tuple[Tensor, bool]:
    """One adapter's tensor, and whether it lay in a list, as diffusers keeps them."""
    is_listed = isinstance(raw, list | tuple)
    items = list(raw) if isinstance(raw, list | tuple) else [raw]
    tensors = [item for item in items if isinstance(item, Tensor)]
    if not tensors or len(tensors) < len(items):
        raise ImageError(f"{where} holds no embeddings; it must hold a tensor, or a list of one tensor per adapter")
    if index is None and len(tensors) > 1:
        raise ImageError(
            f"{where} holds embeddings for {len(tensors)} adapters; say which by the option `index`, from 0"
        )
    if not 0 <= (index or 0) < len(tensors):
        raise ImageError(
            f"{where} holds embeddings for {len(tensors)} adapters and has no index {index}; count them from 0"
        )
    return tensors[index or 0], is_listed


def _interpret(
    tensor: Tensor, is_listed: bool, told: Feature | None, guided: bool | None, where: str
) -> StoredEmbeddings:
    # ComfyUI's has no axis of pictures per row; hidden states have more tokens than one.
    is_states = tensor.dim() == 3 and tensor.shape[1] > 1 and told in (None, "hidden_states")
    is_bare = not is_listed and (tensor.dim() == 2 or is_states)
    feature, rows = _as_rows(tensor, is_bare, told, where)
    if guided is None:
        guided = not is_bare and _is_guided(rows, feature, where)
    if guided and len(rows) % 2:
        raise ImageError(f"{where} has {len(rows)} rows, which have no two halves; read it with guided=False")
    half = len(rows) // 2 if guided else 0
    found: dict[Feature, Tensor] = {}
    if guided:
        found[feature] = _one_if_alike(_pictures(rows[:half], where))
    elif feature != "hidden_states":
        found[feature] = torch.zeros_like(rows[0, :1])
    conditional = {feature: rows[:, 0] if is_bare else _pictures(rows[half:], where)}
    if found:
        _require_agreement(conditional, found, where)
    return StoredEmbeddings(conditional, found, where=where)


def _as_rows(tensor: Tensor, is_bare: bool, told: Feature | None, where: str) -> tuple[Feature, Tensor]:
    """What a tensor is, as [R, n, ...]: rows of pictures."""
    found: Feature | None = None
    shape = list(tensor.shape)
    if tensor.dim() == 4 and shape[2] == 1:
        # Identities stacked as diffusers' guide for FaceID does.
        found, tensor = "identity", tensor.squeeze(2)
    elif tensor.dim() == 4 or (tensor.dim() == 3 and is_bare):
        found = "hidden_states"
    elif tensor.dim() not in (2, 3):
        raise ImageError(f"{where} has a tensor of shape {shape}; embeddings have 2 to 4 axes")
    elif shape[-1] != IDENTITY_DIM:
        found = "image_embeds"
    feature = told or found
    if feature is None:
        raise ImageError(
            f"{where} has a tensor of shape {shape}, which may be identities or image embeddings; "
            "say which by the option `feature`"
        )
    axes = 4 if feature == "hidden_states" else 3
    if tensor.dim() == axes - 1:
        tensor = tensor.unsqueeze(1)
    if tensor.dim() != axes or (feature == "hidden_states" and tensor.shape[2] == 1):
        raise ImageError(f"{where} has a tensor of shape {shape}, which cannot be {feature}; leave `feature` out")
    return feature, tensor


def _is_guided(rows: Tensor, feature: Feature, where: str) -> bool:
    """Whether rows [R, n, ...] say by themselves that their first half is unconditional."""
    if len(rows) % 2:
        return False
    first, second = rows.chunk(2)
    # Without guidance diffusers writes one row, repeated for every image of a prompt.
    if torch.equal(first, second):
        return False
    if feature != "hidden_states" and not first.any():
        return True
    raise ImageError(
        f"{where} has {len(rows)} rows of {feature}, the first half of which may be what guidance moves away from; "
        "say whether by the option `guided`: diffusers writes it so wherever guidance is on"
    )


def _pictures(rows: Tensor, where: str) -> Tensor:
    """Rows [R, n, ...] as pictures [B, ...]: the n of one row, repeated or not, or one of each."""
    if torch.equal(rows, rows[:1].expand_as(rows)):
        return rows[0]
    if rows.shape[1] == 1:
        return rows[:, 0]
    raise ImageError(
        f"{where} has {rows.shape[1]} pictures for each of {len(rows)} different rows; save a file for each row"
    )


def _one_if_alike(pictures: Tensor) -> Tensor:
    """One row where all are of the same picture; encoders round differently along a batch."""
    one = pictures[:1]
    return one if (pictures - one).abs().max() <= 1e-3 * one.abs().max() else pictures
