"""What the original trainer leaves: the whole module that it hands to accelerate, saved under accelerate's names."""

from pathlib import Path
from typing import Any

from accelerate import Accelerator
from diffusers import UNet2DConditionModel
from torch import Tensor, nn

from nigaoe.core.adapters.adapter import IPAdapter


class _Processor(nn.Module):
    """Weights where the original trainer has them: on the UNet's attention processors."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        for name, child in layer.named_children():
            self.add_module(name, child)

    def __call__(self, *args: Any, **kwargs: Any) -> Tensor:
        raise NotImplementedError


class _Trainer(nn.Module):
    """The module that the original trainer hands to accelerate."""

    def __init__(self, unet: UNet2DConditionModel, adapter: IPAdapter) -> None:
        super().__init__()
        empty, layers = nn.Module(), dict(adapter.ip_adapter.items())
        processors = {
            name: _Processor(layers.get(str(place), empty)) for place, name in enumerate(unet.attn_processors)
        }
        unet.set_attn_processor(processors)
        self.unet = unet
        self.image_proj_model = adapter.image_proj
        self.adapter_modules = nn.ModuleList(unet.attn_processors.values())


def write_checkpoint(unet: UNet2DConditionModel, adapter: IPAdapter, folder: Path, *, safe: bool) -> Path:
    """Write `model.safetensors` or `pytorch_model.bin` with an adapter in it; the UNet's own processors are lost."""
    Accelerator(cpu=True).save_model(_Trainer(unet, adapter), folder, safe_serialization=safe)
    return folder / ("model.safetensors" if safe else "pytorch_model.bin")
