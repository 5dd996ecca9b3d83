"""Time of one UNet call by its number of rows: eager, compiled, as CUDA graphs; SD 1.5 at 512 px, random weights.

    python tests/benchmarks/unet_call.py --json unet_call.json            # on a GPU, float16
    python tests/benchmarks/unet_call.py --device cpu --tiny --rounds 3   # that it runs

Every row carries an image prompt of four tokens. The baseline is diffusers' own UNet with its own adapter, two rows a
call, as a pipeline under a lock would have it; `ours` and `baseline` are rows per second. Before anything is timed,
every runner's output is compared with the eager one's. Images per second are those of 30 guided steps, without the
autoencoder. TFLOP/s counts the UNet's own multiplications and additions, two for each pair.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from torch.utils.flop_counter import FlopCounterMode

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.attention import attach, cross_attention_layers, text_keys_values
from nigaoe.core.engine.runners import RunnerName, make_runner
from nigaoe.core.unet_call import Runner, UNetCall, run_unet

SD15: dict[str, Any] = {"sample_size": 64, "attention_head_dim": 8, "cross_attention_dim": 768}
TINY: dict[str, Any] = {**SD15, "sample_size": 16, "block_out_channels": (32, 64, 64, 64), "norm_num_groups": 8}
STEPS = 30
EMBED = 1024
TOLERANCE = {torch.float32: 1e-4, torch.float16: 2e-2, torch.bfloat16: 8e-2}
"""Largest difference to the eager output, relative to its standard deviation."""


class World:
    """A UNet, an adapter, and calls of any number of rows."""

    def __init__(self, config: dict[str, Any], device: torch.device, dtype: torch.dtype) -> None:
        torch.manual_seed(0)
        self.device, self.dtype, self.config = device, dtype, config
        unet = UNet2DConditionModel(**config).eval().requires_grad_(False)
        self.adapter = IPAdapter.for_unet(unet, features={"image_embeds": EMBED}).eval().requires_grad_(False)
        self.stock = copy.deepcopy(unet).to(device, dtype, memory_format=torch.channels_last)
        attach(unet)
        self.unet = unet.to(device, dtype, memory_format=torch.channels_last)
        self.adapter.to(device, dtype)
        state = self.adapter.state_dict()
        parts: dict[str, dict[str, torch.Tensor]] = {"image_proj": {}, "ip_adapter": {}}
        for key, value in state.items():
            part, name = key.split(".", 1)
            parts[part][name] = value
        self.stock._load_ip_adapter_weights([parts])

    @torch.no_grad()
    def call(self, rows: int) -> UNetCall:
        """Inputs of so many rows."""
        generator = torch.Generator().manual_seed(rows)
        side, width = self.config["sample_size"], self.config["cross_attention_dim"]
        text = torch.randn(rows, 77, width, generator=generator).to(self.device, self.dtype)
        embeds = torch.randn(rows, EMBED, generator=generator).to(self.device, self.dtype)
        return UNetCall(
            sample=torch.randn(rows, 4, side, side, generator=generator).to(self.device),
            timesteps=torch.linspace(20, 980, rows, device=self.device),
            text_states=text,
            text=text_keys_values(tuple(cross_attention_layers(self.unet).values()), text),
            image_prompts=(self.adapter(embeds),),
        )

    @torch.no_grad()
    def stock_call(self) -> Callable[[], object]:
        """Diffusers' UNet and adapter on two rows."""
        call = self.call(2)
        embeds = torch.randn(2, 1, EMBED, device=self.device, dtype=self.dtype)
        sample = call.sample.to(self.dtype)
        added = {"image_embeds": [embeds]}
        return lambda: self.stock(sample, call.timesteps, call.text_states, added_cond_kwargs=added).sample

    def tflop(self) -> float:
        """Of one row."""
        with torch.device("meta"):
            unet = UNet2DConditionModel(**self.config)
            side, width = self.config["sample_size"], self.config["cross_attention_dim"]
            inputs = torch.zeros(1, 4, side, side), torch.zeros(1), torch.zeros(1, 77, width)
        counter = FlopCounterMode(display=False)
        with counter:
            unet(*inputs)
        return float(counter.get_total_flops()) / 1e12


@torch.no_grad()
def seconds(work: Callable[[], object], device: torch.device, repeats: int = 5) -> float:
    """Wall time of one call, the mean of some in a row."""

    def settle() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize()

    settle()
    start = time.perf_counter()
    for _ in range(repeats):
        work()
    settle()
    return (time.perf_counter() - start) / repeats


@torch.no_grad()
def apart(world: World, runner: Runner, call: UNetCall) -> float:
    """Largest difference to the eager output, relative to its standard deviation."""
    expected = run_unet(world.unet, call)
    return float((runner(world.unet, call) - expected).abs().max() / expected.std())


def measure(world: World, name: RunnerName, rows: int, rounds: int, tflop: float) -> dict[str, object]:
    """One row of the result."""
    call, runner, stock = world.call(rows), make_runner(name, world.unet), world.stock_call()
    differs = apart(world, runner, call)
    with torch.no_grad():
        for _ in range(3):
            stock()
            runner(world.unet, call)
    pairs = []
    for _ in range(rounds):
        ours = rows / seconds(lambda: runner(world.unet, call), world.device)
        pairs.append((ours, 2 / seconds(stock, world.device)))
    q25, median, q75 = statistics.quantiles([ours / theirs for ours, theirs in pairs], n=4)
    per_s = statistics.median(ours for ours, _ in pairs)
    row = {
        "name": f"{name}, {rows} rows",
        "ours": per_s,
        "baseline": statistics.median(theirs for _, theirs in pairs),
        "ratio": median,
        "q25": q25,
        "q75": q75,
        "target": None,
        "ceiling": None,
        "outputs_equal": differs <= TOLERANCE[world.dtype],
        "ms": 1000 * rows / per_s,
        "images_per_s": per_s / (2 * STEPS),
        "tflops": per_s * tflop,
    }
    print(  # noqa: T201
        f"{row['name']:20} {row['ms']:8.2f} ms, {per_s:8.1f} rows/s, {row['images_per_s']:6.2f} images/s, "
        f"{row['tflops']:6.1f} TFLOP/s, {median:.2f}x ({q25:.2f} to {q75:.2f}), differs by {differs:.1e}",
        flush=True,
    )
    return row


def main() -> None:
    """Measure and print; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--dtype", default=None, choices=["float32", "float16", "bfloat16"])
    parser.add_argument("--tiny", action="store_true", help="a UNet of the same shape and a thousandth of the size")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 2, 4, 8, 16, 32])
    parser.add_argument("--runners", nargs="+", default=None, choices=["eager", "compiled", "graphed"])
    arguments = parser.parse_args()
    device = torch.device(arguments.device)
    if device.type == "cuda" and not torch.cuda.is_available():
        parser.error("torch sees no CUDA device here; give --device cpu --tiny to try the script")
    dtype = getattr(torch, arguments.dtype or ("float16" if device.type == "cuda" else "float32"))
    world = World(TINY if arguments.tiny else SD15, device, dtype)
    tflop = world.tflop()
    names: list[RunnerName] = arguments.runners or (
        ["eager", "compiled", "graphed"] if device.type == "cuda" else ["eager", "compiled"]
    )
    results = []
    for name in names:
        for rows in arguments.rows:
            results.append(measure(world, name, rows, arguments.rounds, tflop))
            if arguments.json:
                # After each, so that a time limit loses nothing.
                arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
