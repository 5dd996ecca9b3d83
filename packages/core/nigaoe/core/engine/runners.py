"""Ways to call the UNet: plainly, compiled, or as CUDA graphs. All give the same numbers, up to rounding.

Compiled code and graphs are made for one shape; so rows are filled up to one of a few counts, and the filling is cut
off again. Rows never see each other, so whatever fills them changes nothing.
"""

import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal
from weakref import ref

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor
from torch._dynamo.exc import FailOnRecompileLimitHit
from torch.utils._pytree import tree_flatten, tree_unflatten

from nigaoe.core.attention import AttentionLora, ImagePrompt, KeysValues
from nigaoe.core.engine.packed import PackedRunner, can_pack
from nigaoe.core.errors import BaseModelError
from nigaoe.core.unet_call import Runner, UNetCall, run_unet

log = logging.getLogger(__name__)

RunnerName = Literal["eager", "packed", "compiled", "graphed"]

ROW_COUNTS = (1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64)
"""Numbers of UNet rows that calls are filled up to; larger calls stay as they are."""

MOST_SHAPES = 64
"""Shapes of calls (rows, latents, tokens, prompts per row) for which compiled code or graphs are kept."""


_PACKED = PackedRunner()
"""One for all engines: the copies that it holds are of bases, and go with them."""


def make_runner(name: RunnerName, unet: UNet2DConditionModel) -> Runner:
    """A runner for a UNet by name; graphs are made of compiled code.

    Raises:
        BaseModelError: `packed` for a UNet that is not float32 on the CPU, `graphed` for one that is not on a GPU.
    """
    if name == "eager":
        return run_unet
    if name == "packed":
        if not can_pack(unet):
            raise BaseModelError(
                "runner 'packed' is for float32 on the CPU; load the base so, or choose another runner"
            )
        return _PACKED
    if name == "graphed" and unet.device.type != "cuda":
        raise BaseModelError(
            f"runner 'graphed' needs a CUDA device, the base is on {unet.device}; choose another runner"
        )
    compiled = CompiledRunner()
    return compiled if name == "compiled" else GraphedRunner(compiled)


def best_runner(unet: UNet2DConditionModel) -> Runner:
    """The fastest that needs no warm-up: packed weights where they gain anything, else a plain call."""
    return _PACKED if can_pack(unet) else run_unet


def filled(call: UNetCall) -> UNetCall:
    """The call with its first row repeated until it has one of `ROW_COUNTS` rows."""
    rows = len(call.sample)
    wanted = next((count for count in ROW_COUNTS if count >= rows), rows)

    def fill(x: Tensor) -> Tensor:
        return torch.cat([x, x[:1].expand(wanted - rows, *x.shape[1:])])

    return call if wanted == rows else _over_rows(call, fill)


class CompiledRunner:
    """The UNet through `torch.compile`, one graph per shape of call."""

    def __init__(self, **options: Any) -> None:
        """`options`: of `torch.compile`, such as `mode` or `backend`."""
        self._run: Callable[[UNet2DConditionModel, UNetCall], Tensor] = torch.compile(
            run_unet, fullgraph=True, dynamic=False, **options
        )

    def __call__(self, unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
        """The prediction, float32 [B, C, h, w]."""
        # Torch gives up on a function after eight shapes; here there are more, and those beyond the limit run plainly.
        with torch._dynamo.config.patch(recompile_limit=MOST_SHAPES, accumulated_recompile_limit=MOST_SHAPES):
            try:
                return self._run(unet, filled(call))[: len(call.sample)]
            except FailOnRecompileLimitHit:
                return run_unet(unet, call)


@dataclass(eq=False)
class _Graph:
    graph: torch.cuda.CUDAGraph
    inputs: list[Tensor]
    output: Tensor
    last: "list[ref[Tensor]]"
    """What the inputs were copied from, not kept alive; what is the same object again need not be copied again."""
    unet: UNet2DConditionModel
    """Kept, so that no other one gets its id."""


class GraphedRunner:
    """The UNet as CUDA graphs, one per shape of call: no launch waits for Python. For one thread and one device."""

    def __init__(self, inner: Runner = run_unet) -> None:
        """`inner`: what is recorded."""
        self._inner = inner
        self._graphs: OrderedDict[object, _Graph | None] = OrderedDict()
        self._pool: Any = None

    def __call__(self, unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
        """The prediction, float32 [B, C, h, w]."""
        if any(prompt.loras for prompt in call.image_prompts):
            # Recorded, a LoRA's weights would be inputs and be copied at every step.
            return self._inner(unet, call)
        leaves, spec = tree_flatten(filled(call))
        key = (id(unet), str(spec), tuple((x.shape, x.dtype) if isinstance(x, Tensor) else x for x in leaves))
        if key not in self._graphs:
            if len(self._graphs) >= MOST_SHAPES:
                self._graphs.popitem(last=False)
            self._graphs[key] = self._record_if_possible(unet, leaves, spec)
        self._graphs.move_to_end(key)
        recorded = self._graphs[key]
        if recorded is None:
            return self._inner(unet, call)
        tensors = [x for x in leaves if isinstance(x, Tensor)]
        for held, given, before in zip(recorded.inputs, tensors, recorded.last, strict=True):
            if given is not before():
                held.copy_(given)
        recorded.last = [ref(x) for x in tensors]
        recorded.graph.replay()
        return recorded.output[: len(call.sample)].clone()

    def _record_if_possible(self, unet: UNet2DConditionModel, leaves: list[Any], spec: Any) -> _Graph | None:
        stream = torch.cuda.current_stream()
        try:
            return self._record(unet, leaves, spec)
        except RuntimeError:
            # A capture that fails leaves its stream behind as the current one.
            torch.cuda.set_stream(stream)
            log.warning("a UNet call could not be recorded as a CUDA graph and is called plainly", exc_info=True)
            return None

    def _record(self, unet: UNet2DConditionModel, leaves: list[Any], spec: Any) -> _Graph:
        held = [x.clone() if isinstance(x, Tensor) else x for x in leaves]
        call: UNetCall = tree_unflatten(held, spec)
        # Warm-up on a side stream, as torch asks for before it records.
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                self._inner(unet, call)
        torch.cuda.current_stream().wait_stream(side)
        # One pool for all: each graph makes its tensors anew when it is replayed, and its output is copied at once.
        self._pool = self._pool or torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool, capture_error_mode="thread_local"):
            output = self._inner(unet, call)
        inputs = [x for x in held if isinstance(x, Tensor)]
        return _Graph(graph, inputs, output, [ref(x) for x in inputs], unet)


def _over_rows(call: UNetCall, change: Callable[[Tensor], Tensor]) -> UNetCall:
    """The call with every tensor changed that has a row for each row of the call."""

    def of(x: Tensor | None) -> Tensor | None:
        return None if x is None else change(x)

    return UNetCall(
        sample=change(call.sample),
        timesteps=change(call.timesteps),
        text_states=change(call.text_states),
        image_prompts=tuple(_prompt_over_rows(prompt, change) for prompt in call.image_prompts),
        text=None if call.text is None else KeysValues(*(tuple(change(x) for x in side) for side in call.text)),
        pooled=of(call.pooled),
        time_ids=of(call.time_ids),
        down_residuals=None if call.down_residuals is None else tuple(change(x) for x in call.down_residuals),
        mid_residual=of(call.mid_residual),
    )


def _prompt_over_rows(prompt: ImagePrompt, change: Callable[[Tensor], Tensor]) -> ImagePrompt:
    return prompt._replace(
        keys=tuple(change(x) for x in prompt.keys),
        values=tuple(change(x) for x in prompt.values),
        mask=None if prompt.mask is None else change(prompt.mask),
        loras=tuple(_filled_lora(lora) for lora in prompt.loras),
        regions=None if prompt.regions is None else {n: change(x) for n, x in prompt.regions.items()},
    )


def _filled_lora(lora: AttentionLora) -> AttentionLora:
    """The LoRA for one of `ROW_COUNTS` rows: those added are the first row's, with a scale of zero."""
    if lora.rows is None or not isinstance(lora.scale, Tensor):
        return lora
    count = len(lora.rows)
    more = next((wanted for wanted in ROW_COUNTS if wanted >= count), count) - count
    return lora._replace(
        rows=torch.cat([lora.rows, lora.rows[:1].expand(more)]),
        scale=torch.cat([lora.scale, lora.scale.new_zeros(more)]),
    )
