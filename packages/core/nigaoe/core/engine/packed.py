"""A UNet for inference on the CPU in float32: weights laid out once as oneDNN wants them, not anew at every call.

Eager torch reorders the weights of a convolution in every call, and sends linear layers to MKL, which is slow on CPUs
that are not Intel's. The operators used here are those that torch's own compiler emits for a frozen graph.
"""

import copy
from collections.abc import Callable
from types import MethodType
from typing import Any
from weakref import WeakKeyDictionary

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn

from nigaoe.core.unet_call import UNetCall, run_unet


def can_pack(module: nn.Module) -> bool:
    """Whether `packed` gains anything: float32 on the CPU, with a torch that has the operators."""
    weight = next(module.parameters())
    return (
        weight.device.type == "cpu"
        and weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
        and hasattr(torch.ops.mkldnn, "_linear_pointwise")
        and hasattr(torch._C._nn, "mkldnn_reorder_conv2d_weight")
    )


def packed(unet: UNet2DConditionModel) -> UNet2DConditionModel:
    """A copy for inference alone: later changes of the original's weights do not reach it, and it cannot be copied."""
    unet = copy.deepcopy(unet).to(memory_format=torch.channels_last).requires_grad_(False)
    for module in list(unet.modules()):
        if isinstance(module, Attention):
            if not module.is_cross_attention:
                module.fuse_projections()
                del module.to_q, module.to_k, module.to_v
            _replace_forward(module, _attend)
    for module in unet.modules():
        if type(module) is nn.Conv2d and module.padding_mode == "zeros":
            _pack_convolution(module)
        elif type(module) is nn.Linear:
            _pack_linear(module)
    return unet


class PackedRunner:
    """Calls packed copies of UNets, made when one is first called."""

    def __init__(self) -> None:
        self._copies: WeakKeyDictionary[UNet2DConditionModel, UNet2DConditionModel] = WeakKeyDictionary()

    def __call__(self, unet: UNet2DConditionModel, call: UNetCall) -> Tensor:
        """The prediction, float32 [B, C, h, w]."""
        if unet not in self._copies:
            self._copies[unet] = packed(unet)
        return run_unet(self._copies[unet], call)


def _attend(self: Attention, hidden_states: Tensor, *args: Any, **kwargs: Any) -> Tensor:
    # Diffusers' own forward inspects the signature of the processor at every call.
    return self.processor(self, hidden_states, *args, **kwargs)


def _pack_convolution(module: nn.Conv2d) -> None:
    padding, stride, dilation = list(module.padding), list(module.stride), list(module.dilation)
    weight = torch._C._nn.mkldnn_reorder_conv2d_weight(
        module.weight.detach().to_mkldnn(),
        padding,
        stride,
        dilation,
        module.groups,
        None,  # type: ignore[call-arg]
    )

    def forward(self: nn.Conv2d, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._convolution_pointwise(  # type: ignore[no-any-return]
            x, weight, self.bias, padding, stride, dilation, self.groups, "none", [], ""
        )

    _replace_forward(module, forward)
    # The packed weight is in the closure; a second one would only cost memory.
    module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)


def _pack_linear(module: nn.Linear) -> None:
    weight = torch.ops.mkldnn._reorder_linear_weight(module.weight.detach(), None)

    def forward(self: nn.Linear, x: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(x, weight, self.bias, "none", [], "")  # type: ignore[no-any-return]

    _replace_forward(module, forward)
    # The packed weight is in the closure; a second one would only cost memory.
    module.weight = nn.Parameter(module.weight.new_empty(0), requires_grad=False)


def _replace_forward(module: nn.Module, forward: Callable[..., Tensor]) -> None:
    setattr(module, "forward", MethodType(forward, module))  # noqa: B010, as mypy takes methods for constants
