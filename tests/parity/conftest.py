"""What parity tests share: the real architectures, and a table of figures that is printed when they end."""

from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel

SD: dict[str, Any] = {
    "sample_size": 64,
    "attention_head_dim": 8,
    "cross_attention_dim": 768,
}
UNETS: dict[str, dict[str, Any]] = {
    "sd15": SD,
    "sd2": {**SD, "attention_head_dim": (5, 10, 20, 20), "cross_attention_dim": 1024, "use_linear_projection": True},
    "sdxl": {
        "sample_size": 128,
        "block_out_channels": (320, 640, 1280),
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "transformer_layers_per_block": (1, 2, 10),
        "attention_head_dim": (5, 10, 20),
        "cross_attention_dim": 2048,
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,
    },
}

_TABLE = pytest.StashKey[list[str]]()


@pytest.fixture(scope="session")
def real_unets() -> dict[str, UNet2DConditionModel]:
    """SD 1.5, 2.x and XL at full size, without weights."""
    with torch.device("meta"):
        return {name: UNet2DConditionModel(**config) for name, config in UNETS.items()}


@pytest.fixture
def parity_table(request: pytest.FixtureRequest) -> list[str]:
    """Lines of the table "max |ours - diffusers|"."""
    return request.config.stash.setdefault(_TABLE, [])


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Print the table, if a test wrote one."""
    lines = config.stash.get(_TABLE, [])
    if lines:
        terminalreporter.section("max |ours - diffusers| of the UNet's output, float32")
        terminalreporter.write("\n".join(lines) + "\n")
