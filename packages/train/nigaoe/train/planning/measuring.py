"""What a training step costs, counted on models without weights: no GPU, no download, a few seconds."""

import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint
from torch.utils.flop_counter import FlopCounterMode

from nigaoe.train.planning.skeleton import Skeleton


@dataclass(frozen=True)
class Flops:
    """Floating-point operations of one sample; a multiplication and an addition are two."""

    step: int
    """Forward and backward of the UNet and the adapter, nothing computed twice."""
    again: int
    """What gradient checkpointing computes twice."""
    text: int
    """Encoding the caption, which every step does."""
    encoders: int
    """Encoding both pictures: paid once where latents are cached, in every step where they are not."""


@dataclass(frozen=True)
class Activations:
    """Memory that a step needs beside weights, gradients and optimizer: so much, and so much more for each sample."""

    fixed_bytes: int
    sample_bytes: int

    def at(self, batch: int) -> int:
        """Bytes of a step of so many samples."""
        return self.fixed_bytes + batch * self.sample_bytes


def count_flops(skeleton: Skeleton, *, gradient_checkpointing: bool = False) -> Flops:
    """FLOPs of one sample."""

    def step() -> None:
        skeleton.step(1).backward()

    def pictures() -> None:
        vision, side = skeleton.image_encoder, skeleton.resolution_px
        seen_px = int(str(vision.config.image_size))
        with torch.no_grad(), torch.device("meta"):
            skeleton.vae.encode(torch.zeros(1, 3, side, side, dtype=skeleton.vae.dtype))
            vision(torch.zeros(1, 3, seen_px, seen_px))

    def text() -> None:
        with torch.no_grad(), torch.device("meta"):
            for tower in skeleton.text_towers:
                tower(torch.zeros(1, skeleton.text_length, dtype=torch.long))

    once, again = _counted(step), 0
    if gradient_checkpointing:
        with _checkpointing(skeleton):
            again = _counted(step) - once
    for weight in skeleton.adapter.parameters():
        weight.grad = None
    return Flops(step=once, again=again, text=_counted(text), encoders=_counted(pictures))


def measure_activations(skeleton: Skeleton, *, gradient_checkpointing: bool, fused: bool = True) -> Activations:
    """The peak of all that a step allocates and frees again.

    `fused`: attention never writes its matrices out, as on a GPU; not so on a CPU.
    """
    attention = _FusedAttention if fused else nullcontext
    with _checkpointing(skeleton, attention) if gradient_checkpointing else nullcontext():
        one, two = (_peak_bytes(skeleton, batch, attention) for batch in (1, 2))
    return Activations(fixed_bytes=max(0, 2 * one - two), sample_bytes=two - one)


@contextmanager
def _checkpointing(skeleton: Skeleton, mode: Callable[[], Any] = nullcontext) -> Iterator[None]:
    # What is computed again in the backward pass is out of reach of a mode that began before it.
    again = partial(checkpoint, use_reentrant=False, context_fn=lambda: (nullcontext(), mode()))
    skeleton.unet.enable_gradient_checkpointing(again)
    try:
        yield
    finally:
        skeleton.unet.disable_gradient_checkpointing()


def parameters(*modules: nn.Module) -> int:
    """How many numbers."""
    return sum(x.numel() for module in modules for x in module.parameters())


def _counted(compute: Callable[[], object]) -> int:
    with FlopCounterMode(display=False) as counter:
        compute()
    return int(counter.get_total_flops())


def _peak_bytes(skeleton: Skeleton, batch: int, attention: Callable[[], Any]) -> int:
    weights = list(skeleton.adapter.parameters())
    for weight in weights:
        weight.grad = torch.zeros_like(weight)
    with _Allocations() as allocations, attention():
        skeleton.step(batch).backward()
    for weight in weights:
        weight.grad = None
    return int(allocations.peak_bytes)


class _FusedAttention(TorchFunctionMode):
    """Attention as every GPU kernel computes it; on the meta device torch would take the plain one."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.scaled_dot_product_attention and kwargs.get("attn_mask") is None:
            return torch.ops.aten._scaled_dot_product_flash_attention(*args)[0]
        return func(*args, **kwargs)


class _Allocations(TorchDispatchMode):
    """Counts the bytes of storages from their first appearance until nothing refers to them."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.peak_bytes = 0
        self._live_bytes = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        for tensor in _tensors((args, kwargs)):
            # Weights and inputs: they were there before.
            self._known.add(tensor.untyped_storage()._cdata)
        out = func(*args, **(kwargs or {}))
        for tensor in _tensors(out):
            storage = tensor.untyped_storage()
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._live_bytes += storage.nbytes()
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        self.peak_bytes = max(self.peak_bytes, self._live_bytes)
        return out

    def _freed(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._live_bytes -= size


def _tensors(tree: object) -> list[torch.Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, torch.Tensor)]
