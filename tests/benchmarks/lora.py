"""FaceID's LoRAs by rows in one UNet call, against a call for each LoRA: same rows, same weights, one thread.

    python tests/benchmarks/lora.py --json lora.json

The baselines: `a call each`, where the LoRA of a call goes by all of its rows; and `merged`, the same with a copy of
the UNet per LoRA, its weights added beforehand, which costs memory and the time to merge (not counted). All sides
predict the same before anything is timed, and something else without the LoRAs. Then they take turns; each round gives
a paired ratio of CPU times, of which median and quartiles are printed. The ceiling is what one call would give at most,
were the LoRAs free: the same rows without them.
"""

import argparse
import copy
import json
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import torch
from diffusers import UNet2DConditionModel
from torch import Tensor

from nigaoe.core.adapters.adapter import IPAdapter
from nigaoe.core.attention import LoraTarget, attention_layers
from nigaoe.core.bases import Base, load_base
from nigaoe.core.engine.batch import pack
from nigaoe.core.engine.engine import Engine
from nigaoe.core.engine.rows import Generation, GuidedImagePrompt, Row
from nigaoe.core.engine.runners import best_runner
from nigaoe.core.image_prompts.features import ImageFeatures
from nigaoe.core.image_prompts.prompt import guided_image_prompts
from nigaoe.core.unet_call import UNetCall

RANK = 16
"""Of layers 64 and 104 wide; published are 128 in layers 320 to 1280 wide."""
IDENTITY = 512
TARGET = 1.0
"""By rows is kept while it is no slower."""
Part = tuple[UNet2DConditionModel, UNetCall]
"""A UNet and what it is called with."""


def faceid(base: Base, seed: int) -> IPAdapter:
    """A FaceID adapter with a LoRA that matters."""
    torch.manual_seed(seed)
    adapter = IPAdapter.for_unet(base.unet, "faceid", features={"identity": IDENTITY}, lora_rank=RANK).eval()
    for parameter in adapter.requires_grad_(False).parameters():
        parameter.add_(0.02 * torch.randn_like(parameter))
    return adapter


def rows_of(base: Base, adapters: Sequence[IPAdapter | None], guidance: float) -> list[Row]:
    """A row for each adapter, at its first step."""
    engine = Engine(base)
    for i, adapter in enumerate(adapters):
        identity = torch.randn(1, IDENTITY, generator=torch.Generator().manual_seed(i))
        features = ImageFeatures((identity,), (torch.zeros_like(identity),))
        prompts = () if adapter is None else guided_image_prompts(adapter, features, 0.8)
        engine.submit(Generation(prompt=f"person {i}", seed=i, guidance_scale=guidance, image_prompts=tuple(prompts)))
    return list(engine._active)


def without_loras(row: Row) -> Row:
    """The same, its image prompts alone."""
    prompts = tuple(
        GuidedImagePrompt(prompt.conditional._replace(loras=()), prompt.unconditional._replace(loras=()))
        for prompt in row.generation.image_prompts
    )
    return replace(row, generation=replace(row.generation, image_prompts=prompts))


def merged(base: Base, adapter: IPAdapter | None) -> UNet2DConditionModel:
    """A copy of the UNet with a LoRA added to its weights."""
    unet = copy.deepcopy(base.unet)
    if adapter is None:
        return unet
    for index, attn in enumerate(attention_layers(unet)):
        linears: dict[LoraTarget, torch.nn.Module] = {
            "q": attn.to_q,
            "k": attn.to_k,
            "v": attn.to_v,
            "out": attn.to_out[0],
        }
        for target, lora in adapter.layer(index).loras.items():
            weight = linears[target].get_parameter("weight")
            weight.data += lora.up.weight @ lora.down.weight
    return unet


def call_of(rows: Sequence[Row], *, has_text: bool = True) -> UNetCall:
    """One call of these rows; `has_text`: with the keys and values of the text that the base makes."""
    call = pack(tuple(rows)).call(torch.stack([row.latents for row in rows]))
    return call if has_text else call._replace(text=None)


def seconds(work: Callable[[], object]) -> float:
    """CPU time of one call; on one thread nothing else is waited for, and a busy machine disturbs it less."""
    start = time.process_time()
    work()
    return time.process_time() - start


def compare(name: str, rows: int, sides: Sequence[Callable[[], Tensor]], rounds: int) -> dict[str, object]:
    """One row of the result; sides: ours, the baseline, and ours without LoRAs."""
    ours, expected, plain = (side() for side in sides)
    apart = float((ours - expected).abs().max() / expected.abs().max())
    assert (ours - plain).abs().max() > 1e-2 * expected.abs().max(), "the LoRAs must matter"
    times: list[list[float]] = []
    for i in range(rounds):
        # Who begins changes: the machine may be warmer, or busier, for the next.
        order = [(i + k) % 3 for k in range(3)]
        taken = {k: seconds(sides[k]) for k in order}
        times.append([taken[k] for k in range(3)])
    q25, median, q75 = statistics.quantiles([theirs / ours for ours, theirs, _ in times], n=4)
    row = {
        "name": name,
        "ours": rows / statistics.median(ours for ours, _, _ in times),
        "baseline": rows / statistics.median(theirs for _, theirs, _ in times),
        "ratio": median,
        "q25": q25,
        "q75": q75,
        "target": TARGET,
        "ceiling": statistics.median(theirs / plain for _, theirs, plain in times),
        "outputs_equal": apart <= 1e-4,
    }
    print(  # noqa: T201
        f"{name:64} {row['ours']:6.1f} against {row['baseline']:6.1f} row steps/s: {median:.2f}x ({q25:.2f} to "
        f"{q75:.2f}), target {TARGET}, ceiling {row['ceiling']:.2f}, predictions differ by {apart:.0e}"
    )
    return row


def main() -> None:
    """Measure and print; `--json` writes the rows as well."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path, help="where to write the rows")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--only", help="part of a name")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = load_base("toy/photo")
    run = best_runner(base.unet)
    several = [faceid(base, seed) for seed in range(4)]
    batches: dict[str, list[IPAdapter | None]] = {
        "4 LoRAs x 2 rows": [adapter for adapter in several for _ in range(2)],
        "1 LoRA x 4 rows, 4 plain rows": [several[0]] * 4 + [None] * 4,
    }
    copies = {adapter: merged(base, adapter) for adapter in (None, *several)}

    @torch.no_grad()
    def predict(parts: Sequence[Part]) -> Tensor:
        return torch.cat([run(unet, call) for unet, call in parts])

    results = []
    for batch, adapters in batches.items():
        for guidance in (5.0, 1.0):
            rows = rows_of(base, adapters, guidance)
            plain = [without_loras(row) for row in rows]
            # Rows of a LoRA stand side by side, so predictions come in the same order whoever makes them.
            members = {a: [i for i, b in enumerate(adapters) if b is a] for a in dict.fromkeys(adapters)}
            baselines: dict[str, list[Part]] = {
                "a call each": [(base.unet, call_of([rows[i] for i in some])) for some in members.values()],
                "merged": [
                    # A LoRA changes the keys and values of the text too: those of the base are of no use to it.
                    (copies[a], call_of([plain[i] for i in some], has_text=a is None))
                    for a, some in members.items()
                ],
            }
            ours, free = [(base.unet, call_of(rows))], [(base.unet, call_of(plain))]
            for baseline, parts in baselines.items():
                name = f"{batch}, {'guided' if guidance != 1 else 'unguided'}, against {baseline}"
                if not arguments.only or arguments.only in name:
                    sides = [partial(predict, side) for side in (ours, parts, free)]
                    results.append(compare(name, len(rows), sides, arguments.rounds))
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
