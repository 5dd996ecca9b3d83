import copy
from dataclasses import replace

import pytest
import torch

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.bases import Base, load_base
from nigaoe.train.config import DropConfig
from nigaoe.train.running.objective import AdapterObjective
from nigaoe.train.running.trust import CompilerIsWrong, require_same_gradients
from nigaoe.train.samples.batches import Batch
from nigaoe.train.samples.draws import Draws


@pytest.fixture(scope="module")
def base() -> Base:
    torch.set_num_threads(1)
    return load_base("toy/photo")


@pytest.fixture(scope="module")
def adapter(base: Base) -> IPAdapter:
    torch.manual_seed(0)
    return IPAdapter.for_unet(base.unet, features={"image_embeds": 128})


@pytest.fixture(scope="module")
def part(base: Base) -> tuple[Batch, Draws]:
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(2, base.latent_channels, 2, 8, 8, generator=generator).unbind(2)
    batch = Batch(
        latents[0],
        {"image_embeds": torch.randn(2, 128, generator=generator)},
        base.text_encoder.tokenize(["a woman", "a man"]),
        torch.zeros(2, 6),
    )
    return batch, Draws(torch.tensor([100, 700]), latents[1], torch.full((2,), 0.5))


def objective(adapter: IPAdapter, base: Base) -> AdapterObjective:
    return AdapterObjective(adapter, base, DropConfig(image=0, text=0, both=0), {"image_embeds": torch.zeros(1, 128)})


def test_equal_gradients_are_trusted_and_leave_nothing_behind(
    adapter: IPAdapter, base: Base, part: tuple[Batch, Draws]
) -> None:
    rounded = replace(base, unet=copy.deepcopy(base.unet).to(memory_format=torch.channels_last))
    require_same_gradients(objective(adapter, rounded), objective(adapter, base), *part)
    assert all(weight.grad is None for weight in adapter.parameters())


def test_a_gradient_that_is_lost_on_its_way_is_found(adapter: IPAdapter, base: Base, part: tuple[Batch, Draws]) -> None:
    wrong = replace(base, unet=copy.deepcopy(base.unet))
    # What a compiler was seen to do: the loss is right, and nothing flows back through the middle.
    wrong.unet.mid_block.register_forward_hook(lambda _module, _inputs, output: output.detach())
    compiled = objective(adapter, wrong)
    torch.testing.assert_close(compiled(*part), objective(adapter, base)(*part))
    with pytest.raises(CompilerIsWrong, match=r"the gradient of \S+ is \d+% off .*; set compile=false"):
        require_same_gradients(compiled, objective(adapter, base), *part)


def test_what_is_no_number_is_not_trusted(adapter: IPAdapter, base: Base, part: tuple[Batch, Draws]) -> None:
    wrong = replace(base, unet=copy.deepcopy(base.unet))
    wrong.unet.conv_out.weight.data.fill_(float("nan"))
    with pytest.raises(CompilerIsWrong):
        require_same_gradients(objective(adapter, wrong), objective(adapter, base), *part)
