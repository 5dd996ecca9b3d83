"""Images per second of the engine against a diffusers pipeline under a lock: same weights, same seeds, one thread.

    python tests/benchmarks/engine.py --json engine.json              # 96 px, as the toy base was trained
    python tests/benchmarks/engine.py --size 64 --json engine64.json  # 8 x 8 latents: a row fills less of a core

Before anything is timed, every picture of every workload is made by both sides and compared. Then the sides take turns;
each round gives a paired ratio, of which median and quartiles are printed. The ceiling is what there would be to gain,
were there nothing but the UNet: a row's time in the pipeline's calls of two over its time in the engine's largest call.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from diffusers import StableDiffusionPipeline
from PIL import Image

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.adapters.files import load_adapter, save_adapter
from nigaoe.core.attention import text_keys_values
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.allocator import keep_freed_memory
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation
from nigaoe.core.engine.runners import RunnerName, best_runner, make_runner
from nigaoe.core.image_prompts.features import embedding_features
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.models import locate
from nigaoe.core.unet_call import Runner, UNetCall, run_unet

Side = Callable[[Sequence["Request"], torch.Tensor], list[Image.Image]]
MAX_ROWS = 16
"""Rows of one UNet call; a guided row counts once."""


@dataclass(frozen=True)
class Request:
    """One picture that somebody wants."""

    prompt: str
    seed: int
    steps: int
    guidance: float
    scale: float
    adapter: int

    @property
    def key(self) -> tuple[object, ...]:
        """Requests of one key may share a batch where only identical ones do."""
        return self.steps, self.guidance, self.scale, self.adapter


def homogeneous(count: int) -> list[Request]:
    """Nothing differs but picture, prompt and seed."""
    return [Request(f"a photo of person {i}", i, 20, 5.0, 0.8, 0) for i in range(count)]


def mixed(count: int) -> list[Request]:
    """Steps 10, 20, 30; guidance 1, 5, 7.5; four scales; two adapters."""
    steps, guidance, scales = (10, 20, 20, 30), (1.0, 5.0, 7.5), (0.4, 0.6, 0.8, 1.0)
    return [
        Request(f"a photo of person {i}", i, steps[i % 4], guidance[i % 3], scales[(i // 2) % 4], (i // 3) % 2)
        for i in range(count)
    ]


class Pipelines:
    """The baseline: one diffusers pipeline per adapter, one request at a time, as a lock would have it.

    With what a careful user gives it: inference mode, channels last, the empty prompt encoded once, no progress bar.
    """

    def __init__(self, adapters: Sequence[Path], size: int) -> None:
        self.size = size
        whole = StableDiffusionPipeline.from_pretrained(locate("toy/photo"), torch_dtype=torch.float32)
        self._pipelines: list[Any] = []
        for path in adapters:
            pipeline: Any = StableDiffusionPipeline(**{**whole.components, "unet": copy.deepcopy(whole.unet)})
            pipeline.load_ip_adapter(str(path.parent), subfolder="", weight_name=path.name, image_encoder_folder=None)
            pipeline.set_progress_bar_config(disable=True)
            pipeline.unet.to(memory_format=torch.channels_last)
            self._pipelines.append(pipeline)
        self._nothing = pipeline.encode_prompt("", "cpu", 1, False)[0].detach()

    @torch.inference_mode()
    def run(self, requests: Sequence[Request], embeds: torch.Tensor) -> list[Image.Image]:
        """All requests, one after the other."""
        return [self._one(request, embeds[request.seed][None]) for request in requests]

    def _one(self, request: Request, embed: torch.Tensor) -> Image.Image:
        pipeline = self._pipelines[request.adapter]
        pipeline.set_ip_adapter_scale(request.scale)
        rows = torch.stack([torch.zeros_like(embed), embed]) if request.guidance != 1 else embed[None]
        picture: Image.Image = pipeline(
            request.prompt,
            height=self.size,
            width=self.size,
            num_inference_steps=request.steps,
            guidance_scale=request.guidance,
            negative_prompt_embeds=self._nothing if request.guidance != 1 else None,
            generator=torch.Generator().manual_seed(request.seed),
            ip_adapter_image_embeds=[rows],
        ).images[0]
        return picture


class Ours:
    """The engine, and the engine held to what others batch: requests that differ in nothing but content."""

    def __init__(self, base: Base, adapters: Sequence[IPAdapter], runner: RunnerName | None, size: int) -> None:
        self.base, self.adapters, self.size = base, adapters, size
        self.runner = best_runner(base.unet) if runner is None else make_runner(runner, base.unet)

    def run(self, requests: Sequence[Request], embeds: torch.Tensor) -> list[Image.Image]:
        """All requests at once."""
        return self._engine().generate(self._generations(requests, embeds))

    def run_identical_only(self, requests: Sequence[Request], embeds: torch.Tensor) -> list[Image.Image]:
        """In the order of arrival, each time with all that have the key of the first."""
        engine, pictures = self._engine(), dict[int, Image.Image]()
        waiting = list(requests)
        while waiting:
            together = [request for request in waiting if request.key == waiting[0].key]
            waiting = [request for request in waiting if request not in together]
            made = engine.generate(self._generations(together, embeds))
            pictures |= {request.seed: picture for request, picture in zip(together, made, strict=True)}
        return [pictures[request.seed] for request in requests]

    def _engine(self) -> Engine:
        # A new one each time: it must not remember the prompts of the round before.
        return Engine(self.base, MAX_ROWS, runner=self.runner)

    def _generations(self, requests: Sequence[Request], embeds: torch.Tensor) -> list[Generation]:
        return [
            Generation(
                prompt=request.prompt,
                height=self.size,
                width=self.size,
                seed=request.seed,
                steps=request.steps,
                guidance_scale=request.guidance,
                image_prompts=tuple(
                    guided_image_prompts(
                        self.adapters[request.adapter], embedding_features(embeds[request.seed][None]), request.scale
                    )
                ),
            )
            for request in requests
        ]


def difference(ours: Sequence[Image.Image], theirs: Sequence[Image.Image]) -> int:
    """Largest difference of two lists of pictures, grey levels of 255."""
    pairs = zip(ours, theirs, strict=True)
    return max(int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs)


def seconds(work: Callable[[], object]) -> float:
    """Wall time of one call."""
    start = time.perf_counter()
    work()
    return time.perf_counter() - start


@torch.no_grad()
def seconds_per_row(base: Base, runner: Runner, rows: int, size: int, repeats: int = 9) -> float:
    """Of a UNet call with so many rows for pictures of `size` px; text keys and values at hand if the runner asks."""
    text = base.text_encoder.encode(["a photo"] * rows).states
    side = size // base.vae_factor
    call = UNetCall(torch.randn(rows, base.latent_channels, side, side), torch.full((rows,), 500), text)
    if runner is not run_unet:
        call = call._replace(text=text_keys_values(base.cross_attention, text))
    runner(base.unet, call)
    return statistics.median(seconds(lambda: runner(base.unet, call)) for _ in range(repeats)) / rows


def compare(
    name: str,
    ours: Callable[[], list[Image.Image]],
    theirs: Callable[[], list[Image.Image]],
    rounds: int,
    target: float,
    ceiling: float,
) -> dict[str, object]:
    """One row of the result."""
    apart = difference(ours(), theirs())
    count = len(ours())
    pairs = []
    for i in range(rounds):
        # Who begins alternates: the machine may be warmer, or busier, for the second.
        if i % 2:
            b, a = seconds(theirs), seconds(ours)
        else:
            a, b = seconds(ours), seconds(theirs)
        pairs.append((a, b))
    ratios = [b / a for a, b in pairs]
    q25, median, q75 = statistics.quantiles(ratios, n=4)
    row = {
        "name": name,
        "ours": count / statistics.median(a for a, _ in pairs),
        "baseline": count / statistics.median(b for _, b in pairs),
        "ratio": median,
        "q25": q25,
        "q75": q75,
        "target": target,
        "ceiling": ceiling,
        "outputs_equal": apart <= 1,
    }
    print(  # noqa: T201
        f"{name:44} {row['ours']:6.2f} against {row['baseline']:6.2f} images/s: {median:.2f}x ({q25:.2f} to {q75:.2f})"
        f", target {target}, ceiling {ceiling:.2f}, pictures differ by {apart} of 255"
    )
    return row


def main() -> None:
    """Measure and print; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--size", type=int, default=96, help="pixels of a side")
    parser.add_argument("--only", help="part of a name")
    parser.add_argument("--runner", choices=["eager", "packed", "compiled"], help="how the engine calls the UNet")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    # For both sides, which share the process.
    keep_freed_memory()
    base = load_base("toy/photo")
    with TemporaryDirectory() as folder:
        paths = []
        for i in range(2):
            adapter = load_adapter(Path(locate("toy/adapter", "adapter")) / "adapter.safetensors")
            torch.manual_seed(i)
            for parameter in adapter.parameters():
                parameter.data.add_(0.01 * i * torch.randn_like(parameter))
            paths.append(Path(folder) / str(i) / "adapter.safetensors")
            save_adapter(adapter, paths[-1])
        adapters = [load_adapter(path).requires_grad_(False) for path in paths]
        size = arguments.size
        theirs, ours = Pipelines(paths, size), Ours(base, adapters, arguments.runner, size)
    embeds = torch.randn(32, adapters[0].embed_dim, generator=torch.Generator().manual_seed(0))
    stock = seconds_per_row(base, run_unet, 2, size)
    single, most = (seconds_per_row(base, ours.runner, rows, size) for rows in (2, 2 * MAX_ROWS))
    locked, alike = "against a locked pipeline", "against identical only"
    workloads: list[tuple[str, list[Request], Side, float, float]] = [
        (f"one request, {locked}", homogeneous(1), theirs.run, 1.0, stock / single),
        (f"8 requests, alike, {locked}", homogeneous(8), theirs.run, 2.2, stock / most),
        (f"8 requests, mixed, {locked}", mixed(8), theirs.run, 2.3, stock / most),
        (f"32 requests, mixed, {locked}", mixed(32), theirs.run, 2.5, stock / most),
        (f"8 requests, mixed, {alike}", mixed(8), ours.run_identical_only, 2.0, single / most),
        (f"32 requests, mixed, {alike}", mixed(32), ours.run_identical_only, 2.0, single / most),
    ]
    rows = [
        compare(name, partial(ours.run, requests, embeds), partial(run, requests, embeds), arguments.rounds, *bounds)
        for name, requests, run, *bounds in workloads
        if not arguments.only or arguments.only in name
    ]
    if arguments.json:
        arguments.json.write_text(json.dumps(rows, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
